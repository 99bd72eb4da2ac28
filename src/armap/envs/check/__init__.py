"""Asks an environment everything that planners rely on, and says in plain words what does not hold.

`bench` makes every call to the environment and checks what comes back; `contract` has the questions; `supervise`
keeps them in a process of their own, so that nothing an environment does can harm the one who asks.
"""
