"""Run the demo as if on a node of eight H100s, one of which is lost after 8 s: a laptop will do.

The devices are a script, played by a fake NVML library through the real bindings (`flopmeter.testing.fake_nvml`).
A fake proves our handling, not the hardware: the training is the small one of `demo.py`, on this machine's processor,
and what the report says of devices is what the script says. The two have nothing to do with each other.
"""

import argparse
import os
from pathlib import Path

import demo

from flopmeter.testing.fake_clusters import eight_h100s, lost_halfway
from flopmeter.testing.fake_nvml import FakeNvml

STEPS, LOST_AFTER_S = 300, 8
BANNER = "these devices are a script; nothing of them was measured"


def main() -> None:
    """Train beside the fake devices, then report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo-gpu"), help="where everything goes")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer updates")
    parser.add_argument("--lost-after-s", type=int, default=LOST_AFTER_S, help="when the fourth device is lost")
    args = parser.parse_args()
    machine = lost_halfway(eight_h100s(), after_s=args.lost_after_s)
    os.environ["FLOPMETER_DEVICES"] = ",".join(device.uuid for device in machine.devices)
    demo.set_aside(args.out)
    demo.console.rule(BANNER, style="red")
    with FakeNvml(machine, speed=1):
        demo.train(demo.Plan(steps=args.steps), args.out)
    demo.report(args.out)
    demo.console.rule(BANNER, style="red")


if __name__ == "__main__":
    main()
