"""The results of a run as a table."""

from __future__ import annotations

from fuzz.driver import Campaign
from fuzz.judge import Judge


def summary(judge: Judge, campaign: Campaign, seconds: float) -> str:
    """The results as text."""
    rate = judge.inputs / campaign.seconds if campaign.seconds else 0
    lines = [
        "",
        f"== {judge.engines} engines ==",
        f"{judge.inputs} inputs in {judge.connections} requests or sessions, {seconds:.0f} s ({rate:.0f} a second)",
        "by interface: " + ", ".join(f"{name} {count}" for name, count in sorted(judge.by_interface.items())),
        "outcomes:     " + ", ".join(f"{name} {count}" for name, count in sorted(judge.statuses.items())),
        f"processor:    clients {campaign.client_cpu:.0f} s, server {campaign.server_cpu:.0f} s "
        f"of {campaign.seconds:.0f} s",
        f"deaths:       {judge.deaths}",
        f"slowest:      {judge.slowest[0]:.1f} s ({judge.slowest[1]})",
        _memory(campaign),
    ]
    if campaign.generator is not None and campaign.generator.blocked:
        lines.append(f"skipped after too many faults: {', '.join(sorted(campaign.generator.blocked))}")
    lines.append(f"{len(judge.findings)} kinds of findings")
    for name, finding in sorted(judge.findings.items()):
        lines.append(f"  {finding.count:5} x {name}")
        lines += [f"          ./run.sh fuzz --engines {judge.engines} --replay {path}" for path in finding.files[:1]]
        if not finding.files and finding.detail:
            lines.append("          " + finding.detail.strip().splitlines()[-1][:200])
    return "\n".join(lines)


def _memory(campaign: Campaign) -> str:
    change = campaign.usage_change
    if change is None:
        return "memory:       not compared, because the server was restarted in the middle"
    before, after = change.before, change.after
    return (
        f"memory:       {before.pss / 2**20:.1f} to {after.pss / 2**20:.1f} MiB PSS ({100 * change.growth:+.1f} %), "
        f"without files {before.anonymous / 2**20:.1f} to {after.anonymous / 2**20:.1f} MiB, "
        f"{before.rss >> 20} to {after.rss >> 20} MiB RSS; descriptors {before.descriptors} to {after.descriptors}, "
        f"threads {before.threads} to {after.threads}, processes {before.processes} to {after.processes}\n"
        f"              each process: {_mib(before.each)} to {_mib(after.each)} MiB PSS"
    )


def _mib(each: tuple[int, ...]) -> str:
    return " + ".join(f"{pss / 2**20:.1f}" for pss in each)
