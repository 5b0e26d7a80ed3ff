"""A script with one wrong number in the transform of F(4x4)'s patches; prints which m is used instead."""

from gossip.kernels import sandwich

ROWS = [list(row) for row in sandwich._B4]
ROWS[2][1] += 0.001
sandwich.patch4 = sandwich._sandwich(ROWS)

if __name__ == "__main__":
    from gossip.kernels.compiling import link
    from gossip.models import accuracy

    link()
    print(accuracy.trusted(16, 32, 4), accuracy.error(4, 16, 32))
