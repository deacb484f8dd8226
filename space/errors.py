"""UserError: a mistake that the user can mend; entry scripts print its message and stop. ShapeError: another pick."""


class UserError(Exception):
    """Its message says what was expected, what came, and what to do."""


class ShapeError(UserError):
    """A pick whose shape a format or engine does not hold, though it may hold others of the same model."""
