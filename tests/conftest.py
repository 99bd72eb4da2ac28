from hypothesis import settings

# How long a test may take depends on what else the machine is doing.
settings.register_profile("armap", deadline=None)
settings.load_profile("armap")
