"""Results for a person: a trace in the terminal, figures as files."""
