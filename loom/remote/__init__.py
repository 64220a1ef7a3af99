"""A project from afar: the calls of the graph's front, carried to a server over HTTP.

`codec.py` says how calls and answers travel, for both ends; `client.py` reaches the server; `front.py` is the front;
`credentials.py` finds the token.
"""
