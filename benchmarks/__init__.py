"""Our engines against the peers' on the same work, in one run. `make bench` writes README.md and results.json here."""
