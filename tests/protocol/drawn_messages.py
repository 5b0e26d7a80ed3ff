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
    links=st.integers(0, 2**16 - 1),
    bytes_sent=counts,
    bytes_received=counts,
    swarm_samples=counts,
    run_s=st.floats(0, 1e11),
    wants_end=st.booleans(),
    members=numbers,
    command=counts,
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
        updates=few,
    ),
    st.builds(msg.Parting),
    st.builds(
        msg.Command,
        sequence=st.integers(1, msg.COUNT_MAX),
        name=st.text(plain, max_size=32),
        value=st.text(plain, max_size=64),
        signature=st.binary(min_size=64, max_size=64),
    ),
    st.builds(msg.DialBackRequest, address=st.text(plain, max_size=128)),
    st.builds(msg.DialBack, address=st.text(plain, max_size=128), code=st.text(plain, max_size=32)),
)
