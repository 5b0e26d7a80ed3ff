"""Layers -> Model(dim, init, loss_and_grad, evaluate) over one flat float32 vector."""
