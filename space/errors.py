"""UserError: a mistake that the user can mend; entry scripts print its message and stop."""


class UserError(Exception):
    """Its message says what was expected, what came, and what to do."""
