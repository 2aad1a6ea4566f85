"""A row judged by the schema: a usage event, or every problem it has."""
