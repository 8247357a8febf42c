"""The tables' history: each file of versions/ takes a database from the version before to its own."""
