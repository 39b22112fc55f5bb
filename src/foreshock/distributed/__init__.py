"""What processes that train together agree upon, without touching the collectives of training.

Ranks find out through the store of ``torch.distributed`` whether all of them are watched, and then meet at
the same steps (`together`), over a connection of their own (`channel`). In one probe each computes on its
part of the batch, and what a solver sees is the mean over all (`joint`). A rank that fails says so in the
very message that the others wait for, so that all leave the probe at the same place.
"""

from foreshock.distributed.channel import Channel, ChannelError
from foreshock.distributed.joint import ALONE, Joint, JointProbe, LeftOutError, OtherRankError
from foreshock.distributed.peers import Peers, all_peers, data_parallel_peers
from foreshock.distributed.together import Meeting, Together

__all__ = [
    "ALONE",
    "Channel",
    "ChannelError",
    "Joint",
    "JointProbe",
    "LeftOutError",
    "Meeting",
    "OtherRankError",
    "Peers",
    "Together",
    "all_peers",
    "data_parallel_peers",
]
