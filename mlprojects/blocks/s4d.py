"""S4D: a diagonal state space layer, as a convolution over time or as a recurrence over sessions.

Gu, Gupta, Goel and Ré, On the Parameterization and Initialization of Diagonal State Space Models,
NeurIPS 2022 (arXiv 2206.11893). Every channel is a linear system x'(t) = A x(t) + B u(t),
y(t) = C x(t) + D u(t) (eq. 1) with a diagonal A. Each of its N states is one mode that decays and
oscillates. A state stands for a conjugate pair, so the output takes twice the real part
(section 3.3, listing 1). B is 1, because only the products of B and C matter.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Start = Literal["lin", "inv", "real"]
# Step size of the first and last channel; modes of -1/2 start with half-lives of 462 to 2 sessions.
STEP_SIZES = (0.003, 0.7)


def eigenvalues(start: Start, states: int) -> Tensor:
    """The diagonal of A at the start, [N] complex128, n = 0 .. N - 1.

    lin: -1/2 + i pi n (S4D-Lin, eq. 9).
    inv: -1/2 + i M / pi (M / (2 n + 1) - 1), M = 2 N with the conjugate states (S4D-Inv, eq. 8).
    real: -(n + 1) (S4D-Real, section 4); training may make these modes oscillate.
    """
    n = torch.arange(states, dtype=torch.float64)
    if start == "real":
        return torch.complex(-(n + 1), torch.zeros_like(n))
    whole = 2 * states
    turning = math.pi * n if start == "lin" else whole / math.pi * (whole / (2 * n + 1) - 1)
    return torch.complex(torch.full_like(n, -0.5), turning)


def zero_order_hold(a: Tensor, step_size: Tensor) -> tuple[Tensor, Tensor]:
    """Discrete A and B of a diagonal A [D, N] and B = 1 at step sizes [D]: section 3.1, ZOH.

    exp(dt A), and (dt A)^-1 (exp(dt A) - I) dt B = (exp(dt A) - 1) / A.
    """
    scaled = step_size[:, None] * a
    return torch.exp(scaled), torch.expm1(scaled) / a


class S4D(nn.Module):
    """One system of N states for each of D channels; the channels do not mix.

    A = -exp(log_decay) + i turn keeps every mode stable (section 3.3). The step sizes of the
    channels are evenly spaced on a logarithmic scale; the reference implementation draws them at
    random.
    """

    def __init__(self, width: int, states: int, start: Start = "lin") -> None:
        super().__init__()
        a = eigenvalues(start, states).expand(width, -1)
        low, high = (math.log(dt) for dt in STEP_SIZES)
        self.log_decay = nn.Parameter(torch.log(-a.real).float())
        self.turn = nn.Parameter(a.imag.float().clone())
        self.log_step = nn.Parameter(torch.linspace(low, high, width))
        parts = torch.randn(width, states, 2)  # real and imaginary
        self.c = nn.Parameter(parts * math.sqrt(0.5))
        self.d = nn.Parameter(torch.ones(width))

    def discrete(self) -> tuple[Tensor, Tensor, Tensor]:
        """A, B and C of x[k] = A x[k-1] + B u[k], y[k] = 2 Re(C x[k]); each [D, N] complex."""
        a, b = zero_order_hold(self._a(), torch.exp(self.log_step))
        return a, b, torch.view_as_complex(self.c)

    def kernel(self, length: int) -> Tensor:
        """Impulse response [D, L]: K[l] = 2 Re(sum over n of C A^l B) (eq. 7)."""
        _, b, c = self.discrete()
        kernel: Tensor = 2 * torch.einsum("dn,dnl->dl", c * b, self._powers(length)).real
        return kernel

    def _powers(self, length: int) -> Tensor:
        """Powers 0 .. L - 1 of the discrete A, [D, N, L] complex."""
        scaled = torch.exp(self.log_step)[:, None] * self._a()
        return torch.exp(scaled[..., None] * torch.arange(length, dtype=self.log_step.dtype))

    def _a(self) -> Tensor:
        """The diagonal of A, [D, N] complex."""
        return torch.complex(-torch.exp(self.log_decay), self.turn)

    def forward(self, u: Tensor) -> Tensor:
        """Outputs [n, L, D] of inputs [n, L, D] from a state of 0, by FFT convolution (eq. 6)."""
        length = u.shape[1]
        size = 2 * length  # twice the length, so that the end does not wrap around to the beginning
        inputs = torch.fft.rfft(u.transpose(1, 2), n=size)
        response = torch.fft.rfft(self.kernel(length), n=size)
        y = torch.fft.irfft(inputs * response, n=size)[..., :length].transpose(1, 2)
        out: Tensor = y + self.d * u
        return out

    def step(self, state: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Next state and output [n, D] after one session: state [n, D, N] complex, input [n, D]."""
        a, b, c = self.discrete()
        state = a * state + b * u[..., None]
        return state, 2 * (c * state).sum(dim=-1).real + self.d * u

    @torch.no_grad()
    def blocks(self, length: int) -> "Blocks":
        """The recurrence over `length` sessions at once, for weights that no longer change."""
        _, b, c = self.discrete()
        powers = self._powers(length + 1)
        kernel = F.pad(self.kernel(length), (length - 1, 0))  # K[j - i] is 0 for i > j
        lag = torch.arange(length) - torch.arange(length)[:, None] + length - 1
        write = powers[..., :length].flip(-1) * b[..., None]  # A^(P-1-i) B
        read = 2 * (powers[..., 1:] * c[..., None])  # 2 C A^(j+1); only the real part is used
        return Blocks(
            answers=kernel[:, lag].contiguous(),
            write=torch.cat([write.real, write.imag], dim=1).transpose(1, 2).contiguous(),
            read=torch.cat([read.real, -read.imag], dim=1).contiguous(),
            decay=powers[..., -1].clone(),
            d=self.d.clone(),
        )


@dataclass(frozen=True)
class Blocks:
    """The recurrence in blocks of P sessions; the state goes from block to block.

    answers [D, P, P]: weight of input i in output j.
    write [D, P, 2 N]: weight of input i in the state after the block, real then imaginary parts.
    read [D, 2 N, P]: weight of the state before the block in output j.
    decay [D, N] complex: A^P.
    """

    answers: Tensor
    write: Tensor
    read: Tensor
    decay: Tensor
    d: Tensor

    def scan(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs [n, L, D] of inputs [n, L, D] from a state of 0, and the last state [n, D, N]."""
        n, length, width = u.shape
        size = self.answers.shape[1]
        # Zeros fill the first block from the left; a state of 0 stays 0 over them.
        padded = F.pad(u.permute(2, 0, 1), (-length % size, 0))
        blocks = padded.reshape(width, -1, size)  # [D, n B, P]
        real, imaginary = (blocks @ self.write).chunk(2, dim=-1)
        added = torch.complex(real, imaginary).unflatten(1, (n, -1))  # [D, n, B, N]
        state = torch.zeros_like(added[:, :, 0])
        before = []
        for i in range(added.shape[2]):
            before.append(state)
            state = self.decay[:, None] * state + added[:, :, i]
        carried = torch.stack(before, dim=2).flatten(1, 2)  # [D, n B, N]
        y = blocks @ self.answers + torch.cat([carried.real, carried.imag], dim=2) @ self.read
        y = y.reshape(width, n, -1)[..., -length:].permute(1, 2, 0)
        return y + self.d * u, state.transpose(0, 1)
