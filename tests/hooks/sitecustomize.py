"""On PYTHONPATH it writes down what every Python process asks of the network, in the file that
LISTENING names.
"""

import os
import sys
from pathlib import Path

# The event -> which of its arguments is an address, or a host.
ASKED = {
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
    "socket.gethostbyaddr": 0,
    "socket.getnameinfo": 0,
}


def note(event, arguments):
    """Write down one request, and from where it came."""
    if event in ASKED:
        with Path(os.environ["LISTENING"]).open("a") as file:
            print(event, arguments[ASKED[event]], file=file)


sys.addaudithook(note)
