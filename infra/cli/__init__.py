"""The command line, `moonlark`: a module a command, loaded when it is used.

`main` lists the commands, `lazy` loads them and turns expected errors into a message and a hint.
"""
