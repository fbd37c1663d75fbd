"""What a run leaves behind and what is made of it: metrics, heartbeat, live line, charts, listing, report."""
