"""Who waits for whom in a loop in which nothing happens any more, told from its ledger."""

from __future__ import annotations

from rlloop.loop.ledger import Ledger


def who_waits(ledger: Ledger, trainer_state: str, now: float, last_step: float) -> str:
    """One line: what the samplers' side waits for, then the trainer's, with seconds.

    Args:
        trainer_state: what the trainer last said that it does.
        now, last_step: unix seconds; when its last update was reported, or the run was started.
    """
    return f"{_pools(ledger, now)}; trainer: {trainer_state}, last update {now - last_step:.0f} s ago"


def _pools(ledger: Ledger, now: float) -> str:
    if ledger.leased:
        since, number = min((since, number) for number, since in ledger.leased.items())
        waited = f"since {now - since:.0f} s"
        workers = list(ledger.tickets[number].workers.values())
        if workers:
            return f"the pump waits for {workers[-1]} with ticket {number} {waited}"
        return f"the pump waits for a sampler to begin ticket {number} {waited}: none is up, or all are busy"
    if ledger.version == ledger.plan.num_versions:
        return "all versions are published"
    if ledger.is_closed(ledger.version):
        cohort = [ledger.tickets[number] for number in ledger.plan.generations[ledger.version].tickets]
        closed = [time for ticket in cohort for time in ticket.times.values()]
        waited = f" since {now - max(closed):.0f} s" if closed else ""
        return f"the gate waits for the trainer's version {ledger.version + 1}{waited}"
    lowest = ledger.lowest_open()
    return f"the gate waits for the pump to ask for ticket {lowest[0] if lowest else None}"
