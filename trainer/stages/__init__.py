"""The stages of a job. Each module offers `perform(workspace) -> facts` and `intact(workspace) -> bool`."""
