"""The command line as one of two processes, with the network in shards if that is asked for.

accelerate applies FSDP to GPUs only, though torch's FSDP shards over CPUs just as well. So it is told that processes on
CPUs are on GPUs; all else is as on these.
"""

import os

from accelerate import state
from accelerate.utils import DistributedType

SHARDED = os.environ.get("ACCELERATE_USE_FSDP") == "true"

as_usual = state.PartialState.__init__


def as_on_gpus(self: state.PartialState, *args: object, **settings: object) -> None:
    as_usual(self, *args, **settings)
    if state.PartialState._shared_state["distributed_type"] == DistributedType.MULTI_CPU:
        state.PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


if SHARDED:
    state.PartialState.__init__ = as_on_gpus

from armap.cli import main  # noqa: E402

try:
    main()
finally:
    there = state.AcceleratorState()
    assert there.num_processes == 2, "this was not one of two processes"
    assert there.distributed_type == (DistributedType.FSDP if SHARDED else DistributedType.MULTI_CPU)
