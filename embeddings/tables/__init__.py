"""How a table's rows are held."""
