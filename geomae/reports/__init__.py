"""What people look at: figures, maps and reports."""
