"""Arrays <-> bytes of a payload. Every check of a peer's payload lives in a decode function here."""
