"""The layers themselves, trained on a CPU: torch lives here."""
