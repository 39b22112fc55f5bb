"""What processes that train together agree upon, without touching the collectives of training.

Ranks find out through the store of ``torch.distributed`` whether all of them are watched, and then meet at
the same steps (`together`), over a connection of their own (`channel`). In one probe each computes on its
part of the batch, and what a solver sees is the mean over all (`joint`). A rank that fails says so in the
very message that the others wait for, so that all leave the probe at the same place.
"""

from foreshock.distributed.channel import Channel, ChannelError
from foreshock.distributed.checkpointed import Checkpointed
from foreshock.distributed.joint import ALONE, Joint, JointProbe, LeftOutError, OtherRankError
from foreshock.distributed.layerwise import LayerwiseProbe
from foreshock.distributed.passes import let_go, reduce_dtypes, why_no_passes
from foreshock.distributed.peers import Peers, all_peers, training_peers
from foreshock.distributed.pieces import Grid, is_spread, why_not_spread
from foreshock.distributed.room import why_not_whole
from foreshock.distributed.sharded import ShardedProbe
from foreshock.distributed.shards import ShardVector, part_of
from foreshock.distributed.together import Meeting, Together, joint_probe

__all__ = [
    "ALONE",
    "Channel",
    "ChannelError",
    "Checkpointed",
    "Grid",
    "Joint",
    "JointProbe",
    "LayerwiseProbe",
    "LeftOutError",
    "Meeting",
    "OtherRankError",
    "Peers",
    "ShardVector",
    "ShardedProbe",
    "Together",
    "all_peers",
    "is_spread",
    "joint_probe",
    "let_go",
    "part_of",
    "reduce_dtypes",
    "training_peers",
    "why_no_passes",
    "why_not_spread",
    "why_not_whole",
]
