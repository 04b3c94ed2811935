"""Conditional flow matching: a network that carries one vector to another along an ODE (Lipman et al., arXiv
2210.02747; from a given start: Tong et al., arXiv 2302.00482).

    x_t = (1 - t) x_0 + t x_1,      L = |v(x_t, t, c) - (x_1 - x_0)|^2,      acting: dx/dt = v(x, t, c) from t = 0 to 1

x_0 may be noise, as for a policy's chunks of actions, or itself something known, as a planned action is.
"""

import torch
from torch import Tensor, nn

from training import computing


def earlier_times(n: int, power: float, generator: torch.Generator) -> Tensor:
    """t = u^power, u uniform: above 1 more often near the start. Where x_0 is a part of c, x_t tells x_1 at any later
    t, and a network that reads it there has learned nothing for t = 0. [n]
    """
    return torch.rand(n, generator=generator) ** power


class Flow(nn.Module):
    """v, from an encoder of (t, x) and one of the condition."""

    def __init__(self, size: int, condition: int, width: int = 64):
        """`size` numbers are carried, `condition` numbers say how."""
        super().__init__()
        self.size = size

        def encoder(inputs: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(inputs, width), nn.ELU(), nn.Linear(width, width), nn.ELU())

        self.moved, self.condition = encoder(1 + size), encoder(condition)
        self.joint = nn.Sequential(
            nn.Linear(2 * width, 2 * width), nn.ELU(), nn.Linear(2 * width, width), nn.ELU(), nn.Linear(width, size)
        )

    def velocity(self, x: Tensor, t: Tensor, encoded: Tensor) -> Tensor:
        """v where the condition has been encoded. [n, size], [n], [n, width] -> [n, size]"""
        return self.joint(torch.cat([self.moved(torch.cat([t[:, None], x], 1)), encoded], 1))

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """v. [n, size], [n], [n, C] -> [n, size]"""
        return self.velocity(x, t, self.condition(condition))

    def loss(
        self, start: Tensor, end: Tensor, condition: Tensor, generator: torch.Generator, power: float = 1.0
    ) -> Tensor:
        """L of each row; `power` as of earlier_times(). [n, size], [n, size], [n, C] -> [n]"""
        t = computing.onto(start.device, earlier_times(len(start), power, generator))
        between = torch.lerp(start, end, t[:, None])
        return (self(between, t, condition) - (end - start)).square().mean(1)

    def carry(self, start: Tensor, condition: Tensor, steps: int = 10) -> Tensor:
        """From t = 0 to 1 by so many steps of the midpoint rule. [n, size], [n, C] -> [n, size]"""
        encoded, x = self.condition(condition), start
        for step in range(steps):
            t = torch.full((len(x),), step / steps, device=x.device)
            halfway = x + self.velocity(x, t, encoded) / (2 * steps)
            x = x + self.velocity(halfway, t + 1 / (2 * steps), encoded) / steps
        return x
