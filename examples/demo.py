"""Train a small GPT on the Python standard library's own sources, metered, and end with a verified attestation.

Everything lands in runs/demo. Run it again: an unfinished run is resumed, a finished one is set aside.
"""

import argparse
import json
import logging
import math
import sys
import sysconfig
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional

from flopmeter import Account, Meter
from flopmeter.cli.main import main as flopmeter
from flopmeter.regimes.regime import catalogue, find
from flopmeter.report.summary import summarize
from flopmeter.report.terminal import print_account
from flopmeter.units import print_flop

console = Console()


@dataclass(frozen=True)
class Plan:
    """Sizes of the model and of the training."""

    layers: int = 4
    heads: int = 4
    width: int = 128
    context: int = 128
    batch: int = 8
    accumulation: int = 2
    steps: int = 300
    evaluate_every: int = 50
    evaluation_batches: int = 8
    save_every: int = 50

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer update."""
        return self.batch * self.accumulation * self.context


class Block(nn.Module):
    """Causal attention and a feed-forward layer, each behind a norm and beside a residual."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.heads = plan.heads
        self.norm1, self.norm2 = nn.LayerNorm(plan.width), nn.LayerNorm(plan.width)
        self.query_key_value = nn.Linear(plan.width, 3 * plan.width)
        self.project = nn.Linear(plan.width, plan.width)
        self.feed_forward = nn.Sequential(
            nn.Linear(plan.width, 4 * plan.width), nn.GELU(), nn.Linear(4 * plan.width, plan.width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, length, width) to the same."""
        batch, length, width = x.shape
        heads = self.query_key_value(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.project(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.feed_forward(self.norm2(x))


class GPT(nn.Module):
    """A byte-level language model; the output layer is tied to the embedding."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.bytes = nn.Embedding(256, plan.width)
        self.places = nn.Embedding(plan.context, plan.width)
        self.blocks = nn.Sequential(*(Block(plan) for _ in range(plan.layers)))
        self.norm = nn.LayerNorm(plan.width)
        self.head = nn.Linear(plan.width, 256, bias=False)
        self.head.weight = self.bytes.weight
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, text: Tensor, following: Tensor) -> Tensor:
        """Return the mean loss of predicting each following byte; both are (batch, length)."""
        places = torch.arange(text.shape[1], device=text.device)
        x = self.norm(self.blocks(self.bytes(text) + self.places(places)))
        return functional.cross_entropy(self.head(x).flatten(0, 1), following.flatten())


def read_text(limit: int = 8_000_000) -> Tensor:
    """Return the standard library's sources as one tensor of bytes; every machine has them."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return torch.tensor(bytearray(b"".join(file.read_bytes() for file in files)[:limit]), dtype=torch.uint8)


def draw(text: Tensor, plan: Plan, seed: int) -> tuple[Tensor, Tensor]:
    """Return a batch and the same shifted by one byte, drawn from a seed, so that a resumed run sees the same."""
    starts = torch.randint(len(text) - plan.context - 1, (plan.batch,), generator=torch.Generator().manual_seed(seed))
    rows = torch.stack([text[start : start + plan.context + 1] for start in starts.tolist()]).long()
    return rows[:, :-1], rows[:, 1:]


@torch.no_grad()
def evaluate(model: GPT, text: Tensor, plan: Plan) -> float:
    """Return the mean loss on held-out text."""
    model.eval()
    losses = [model(*draw(text, plan, seed)).item() for seed in range(plan.evaluation_batches)]
    model.train()
    return sum(losses) / len(losses)


def train(plan: Plan, out: Path) -> None:
    """Train, or go on training, with the meter on."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    text = read_text()
    split = len(text) * 95 // 100
    model = GPT(plan)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    resume, checkpoint = out / "resume.pt", out / "checkpoint" / "model.pt"
    step = 0
    if resume.exists():
        state = torch.load(resume)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        console.print(f"resuming at step {step} of {plan.steps}")
    regime = write_regime(out, model, plan)
    if not (out / "key").exists():
        run_command("keygen", out / "key")

    columns = (
        TextColumn("[bold]training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  {task.fields[rate]:,.0f} tokens/s  {task.fields[flop]}"),
        TimeRemainingColumn(),
    )
    with (
        Meter(
            out, model=model, optimizer=optimizer, purpose="pretraining", regimes=[regime], signer=out / "key"
        ) as meter,
        Progress(*columns, console=console) as progress,
    ):
        former = Account.of(out, live=True)
        for gap in former.gaps:
            console.print(f"the last life of this run ended early: {gap.detail}", style="yellow")
        bar = progress.add_task("", total=plan.steps, completed=step, loss=math.nan, rate=0, flop="")
        begun, first = time.monotonic(), step
        while step < plan.steps:
            for part in range(plan.accumulation):
                loss = model(*draw(text[:split], plan, seed=step * plan.accumulation + part))
                (loss / plan.accumulation).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            meter.step(tokens=plan.tokens_per_step)
            rate = (step - first) * plan.tokens_per_step / (time.monotonic() - begun)
            progress.update(bar, completed=step, loss=loss.item(), rate=rate, flop=print_flop(former.flop + meter.flop))
            if step % plan.evaluate_every == 0:
                with meter.purpose("evaluation"):
                    held_out = evaluate(model, text[split:], plan)
                progress.console.print(f"step {step}: loss on held-out text {held_out:.3f}")
            if step % plan.save_every == 0:
                save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, resume)
        save(model.state_dict(), checkpoint)
        meter.checkpoint(checkpoint.parent)


def save(state: dict[str, object], path: Path) -> None:
    """Write a file that is there whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    unnamed = path.with_suffix(".new")
    torch.save(state, unnamed)
    unnamed.replace(path)


def write_regime(out: Path, model: GPT, plan: Plan) -> Path:
    """Write a made-up rule whose number this run will pass on its way, to see the warnings."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    number = 6 * parameters * plan.tokens_per_step * plan.steps * 4 // 5
    path = out / "regime.toml"
    path.write_text(
        f"""# A made-up rule, so that a small run can cross it: four fifths of what 6ND says this run will take.
id = "demo.made-up"
title = "A made-up threshold for the demo"
jurisdiction = "nowhere"
threshold = "{number}"
operator = ">"
unit = "floating-point operations"
counts = ["all-floating-point"]
obligation = "Look at the warnings."
source = "examples/demo.py"
as_of = 2026-11-22
in_force_from = 2026-11-22
status = "in force"
note = "Not a law."
"""
    )
    return path


def run_command(*words: object) -> None:
    """Run a flopmeter command as a user would, and show it."""
    console.print(f"\n[dim]$ flopmeter {' '.join(map(str, words))}[/dim]", highlight=False, soft_wrap=True)
    code = flopmeter([str(word) for word in words])
    if code:
        sys.exit(code)


def report(out: Path) -> None:
    """Print and write the report, sign it, verify it."""
    account = Account.of(out)
    today = datetime.now(UTC).date()
    regimes = [*(regime for regime in catalogue() if regime.is_live(today)), find(out / "regime.toml")]
    findings = [regime.assess(account, on=today) for regime in regimes]
    console.rule("what this run took")
    print_account(account, console, name=out.name, findings=findings)
    summary = summarize(account, name=out.name, findings=[finding.to_wire() for finding in findings])
    (out / "report.json").write_text(json.dumps(summary, indent=2) + "\n")

    console.rule("what others can check")
    attestation, subject = out / "attestation.json", out / "checkpoint"
    run_command("attest", out, "--key", out / "key", "--subject", subject, "--out", attestation)
    run_command("recount", out)
    run_command("verify", attestation, "--key", out / "key.pub", "--ledger", out, "--subject", subject)
    console.rule("where it lies")
    for what, where in (
        ("ledger", out / "ledger"),
        ("checkpoint", subject),
        ("report", out / "report.json"),
        ("attestation", attestation),
        ("warnings, signed", out / "attestations"),
        ("public key", out / "key.pub"),
    ):
        console.print(f"{what:<18}{where}", highlight=False)


def set_aside(out: Path) -> None:
    """Move a finished run out of the way; nothing is ever overwritten."""
    if (out / "attestation.json").exists():
        aside = out.with_name(f"{out.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
        out.rename(aside)
        console.print(f"a finished run was here; it is now {aside}")


def main() -> None:
    """Parse the few options, train and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="where everything goes")
    parser.add_argument("--steps", type=int, default=Plan.steps, help="optimizer updates")
    args = parser.parse_args()
    logging.basicConfig(level="WARNING", format="%(message)s", handlers=[RichHandler(console=console, show_path=False)])
    set_aside(args.out)
    try:
        train(Plan(steps=args.steps), args.out)
    except KeyboardInterrupt:
        console.print("stopped; what ran is in the ledger, run this again to go on")
        sys.exit(130)
    report(args.out)


if __name__ == "__main__":
    main()
