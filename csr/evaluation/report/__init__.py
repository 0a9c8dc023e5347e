"""An evaluation for people and programs: page, table, JSON, and the lines of the terminal."""
