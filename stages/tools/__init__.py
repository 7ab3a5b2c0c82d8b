"""Commands beside the stages: pack, export, verify, status and plan."""
