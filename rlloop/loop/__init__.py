"""Tickets, cohorts, ledger, gate rule and journal: pure Python, tested without Ray."""
