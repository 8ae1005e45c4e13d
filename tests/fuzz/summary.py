"""What a run found, as a table."""

from __future__ import annotations

from fuzz.driver import Campaign
from fuzz.judge import Judge


def summary(judge: Judge, campaign: Campaign, seconds: float) -> str:
    """For people."""
    rate = judge.inputs / campaign.seconds if campaign.seconds else 0
    lines = [
        "",
        f"== {judge.engines} engines ==",
        f"{judge.inputs} inputs in {judge.connections} requests or sessions, {seconds:.0f} s ({rate:.0f} a second)",
        "by interface: " + ", ".join(f"{name} {count}" for name, count in sorted(judge.by_interface.items())),
        "outcomes:     " + ", ".join(f"{name} {count}" for name, count in sorted(judge.statuses.items())),
        f"processor:    clients {campaign.own_cpu:.0f} s, server {campaign.box_cpu:.0f} s of {campaign.seconds:.0f} s",
        f"deaths:       {judge.deaths}",
        f"slowest:      {judge.slowest[0]:.1f} s ({judge.slowest[1]})",
        _held(campaign),
    ]
    if campaign.makers is not None and campaign.makers.blocked:
        lines.append(f"left out after too many faults: {', '.join(sorted(campaign.makers.blocked))}")
    lines.append(f"{len(judge.findings)} kinds of findings")
    for name, finding in sorted(judge.findings.items()):
        lines.append(f"  {finding.count:5} x {name}")
        lines += [f"          ./run.sh fuzz --engines {judge.engines} --replay {path}" for path in finding.files[:1]]
        if not finding.files and finding.detail:
            lines.append("          " + finding.detail.strip().splitlines()[-1][:200])
    return "\n".join(lines)


def _held(campaign: Campaign) -> str:
    span = campaign.span
    if span is None:
        return "memory:       not compared, because the server was started anew in the middle"
    before, after = span.before, span.after
    return (
        f"memory:       {before.pss / 2**20:.1f} to {after.pss / 2**20:.1f} MiB PSS ({100 * span.growth:+.1f} %), "
        f"without files {before.own / 2**20:.1f} to {after.own / 2**20:.1f} MiB, "
        f"{before.rss >> 20} to {after.rss >> 20} MiB RSS; descriptors {before.descriptors} to {after.descriptors}, "
        f"threads {before.threads} to {after.threads}, processes {before.processes} to {after.processes}\n"
        f"              each process: {_mib(before.each)} to {_mib(after.each)} MiB PSS"
    )


def _mib(each: tuple[int, ...]) -> str:
    return " + ".join(f"{pss / 2**20:.1f}" for pss in each)
