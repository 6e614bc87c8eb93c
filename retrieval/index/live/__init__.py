"""An index that lives: items come, change and go while it is searched."""
