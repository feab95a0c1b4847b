"""The only room that says `import torch` or `import pynvml`.

Not here: sums, files and laws. What is measured leaves as OpCalls, Tables and Usage.
"""
