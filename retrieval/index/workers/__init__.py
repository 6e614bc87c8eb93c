"""Tasks done by several processes of this machine, or of a Ray cluster; work that is gone on with after a kill."""
