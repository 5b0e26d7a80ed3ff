"""Every control message there can be, for hypothesis to draw from."""

from __future__ import annotations

from hypothesis import strategies as st

from gossip.protocol import messages as msg

counts = st.integers(0, msg.COUNT_MAX)
numbers = st.integers(0, 2**32 - 1)
keys = st.binary(min_size=32, max_size=32)
plain = st.characters(min_codepoint=32, max_codepoint=126)
statuses = st.builds(
    msg.Status,
    sequence=counts,
    phase=st.sampled_from(msg.Phase),
    step=counts,
    samples=counts,
    samples_per_s=st.floats(0, 1e11),
    loss=st.floats(allow_nan=False, allow_infinity=False),
    accuracy=st.floats(-1, 1),
    links=counts,
    bytes_sent=counts,
    bytes_received=counts,
)
updates = st.builds(
    msg.Update,
    key=keys,
    address=st.text(plain, max_size=128),
    incarnation=numbers,
    state=st.sampled_from(msg.State),
    status=statuses,
)
few = st.lists(updates, max_size=msg.UPDATES_MAX).map(tuple)
all_messages = st.one_of(
    st.builds(msg.Ping, number=numbers, updates=few),
    st.builds(msg.PingRequest, number=numbers, target=keys, updates=few),
    st.builds(msg.Ack, number=numbers, updates=few),
    st.builds(msg.News, updates=few),
    st.builds(msg.MembersRequest),
    st.builds(msg.Members, updates=st.lists(updates, max_size=20).map(tuple)),
    st.builds(msg.FragmentRequest, index=st.integers(0, 2**16 - 1)),
    st.builds(
        msg.Refusal,
        kind=st.sampled_from([msg.PayloadKind.OFFER, msg.PayloadKind.FRAGMENT]),
        number=numbers,
        code=st.text(plain, max_size=32),
    ),
    st.builds(msg.Parting),
)
