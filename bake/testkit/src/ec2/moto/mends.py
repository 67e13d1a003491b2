"""What moto's records get wrong and the proxy cannot put right from outside."""

RECORDS = {}


def record(function):
    """Lets the proxy call it: `POST /_olbake/NAME` with its arguments as JSON."""
    RECORDS[function.__name__] = function
    return function


def apply():
    """Changes moto's classes; before the first request."""
