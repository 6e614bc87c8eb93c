"""An index of shards: built by several processes, searched side by side, merged exactly."""
