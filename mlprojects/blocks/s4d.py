"""S4D: a diagonal state space layer, as one convolution over time or as a recurrence from session to session.

Gu, Gupta, Goel and Ré, On the Parameterization and Initialization of Diagonal State Space Models, NeurIPS 2022 (arXiv
2206.11893). Every channel is a linear system x'(t) = A x(t) + B u(t), y(t) = C x(t) + D u(t) (eq. 1) with a diagonal A:
each of its N states is one mode, which fades and turns. States stand for conjugate pairs, so twice the real part is
taken (section 3.3, listing 1). B is 1: only the products of B and C count.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Start = Literal["lin", "inv", "real"]
STEP_SIZES = (
    0.003,
    0.7,
)  # of the first and the last channel: modes of -1/2 start with half-lives of 462 to 2 sessions


def eigenvalues(start: Start, states: int) -> Tensor:
    """The diagonal of A at the start, [N] complex128, n = 0 .. N - 1.

    lin: -1/2 + i pi n (S4D-Lin, eq. 9). inv: -1/2 + i M / pi (M / (2 n + 1) - 1) with M = 2 N, the states with their
    conjugates (S4D-Inv, eq. 8). real: -(n + 1) (S4D-Real, section 4); training may turn these modes, too.
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

    A = -exp(log_decay) + i turn keeps every mode stable (section 3.3). Step sizes are spread evenly over the channels
    on a logarithmic scale, where the reference implementation draws them at random.
    """

    def __init__(self, width: int, states: int, start: Start = "lin") -> None:
        super().__init__()
        a = eigenvalues(start, states).expand(width, -1)
        low, high = (math.log(dt) for dt in STEP_SIZES)
        self.log_decay = nn.Parameter(torch.log(-a.real).float())
        self.turn = nn.Parameter(a.imag.float().clone())
        self.log_step = nn.Parameter(torch.linspace(low, high, width))
        self.c = nn.Parameter(
            torch.randn(width, states, 2) * math.sqrt(0.5)
        )  # real and imaginary part
        self.d = nn.Parameter(torch.ones(width))

    def discrete(self) -> tuple[Tensor, Tensor, Tensor]:
        """A, B and C of the recurrence x[k] = A x[k-1] + B u[k], y[k] = 2 Re(C x[k]); each [D, N] complex."""
        a, b = zero_order_hold(self._a(), torch.exp(self.log_step))
        return a, b, torch.view_as_complex(self.c)

    def kernel(self, length: int) -> Tensor:
        """Answer [D, L] to a single 1: K[l] = sum over n of C A^l B (eq. 7), by its real part twice."""
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
        """Outputs [n, L, D] of inputs [n, L, D] from a state of 0: one convolution (eq. 6), by FFT."""
        length = u.shape[1]
        size = 2 * length  # twice the length, so that the end does not wrap around to the beginning
        spectrum = torch.fft.rfft(u.transpose(1, 2), n=size) * torch.fft.rfft(
            self.kernel(length), n=size
        )
        y = torch.fft.irfft(spectrum, n=size)[..., :length].transpose(1, 2)
        out: Tensor = y + self.d * u
        return out

    def step(self, state: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """One session of the recurrence: state [n, D, N] complex, input [n, D] to the next state and output [n, D]."""
        a, b, c = self.discrete()
        state = a * state + b * u[..., None]
        return state, 2 * (c * state).sum(dim=-1).real + self.d * u

    @torch.no_grad()
    def blocks(self, length: int) -> "Blocks":
        """The recurrence over `length` sessions at once, for weights that do not change any more."""
        _, b, c = self.discrete()
        powers = self._powers(length + 1)
        kernel = F.pad(self.kernel(length), (length - 1, 0))  # K[j - i] is 0 for i > j
        lag = torch.arange(length) - torch.arange(length)[:, None] + length - 1
        write = powers[..., :length].flip(-1) * b[..., None]  # A^(P-1-i) B
        read = 2 * (powers[..., 1:] * c[..., None])  # 2 C A^(j+1), of which the real part is taken
        return Blocks(
            answers=kernel[:, lag].contiguous(),
            write=torch.cat([write.real, write.imag], dim=1).transpose(1, 2).contiguous(),
            read=torch.cat([read.real, -read.imag], dim=1).contiguous(),
            decay=powers[..., -1].clone(),
            d=self.d.clone(),
        )


@dataclass(frozen=True)
class Blocks:
    """The recurrence in blocks of P sessions: a state is carried from block to block, and P outputs come at once.

    answers [D, P, P]: of input i to output j. write [D, P, 2 N]: of input i to the state after the block (real parts,
    then imaginary ones). read [D, 2 N, P]: of the state before the block to output j. decay [D, N] complex: A^P.
    """

    answers: Tensor
    write: Tensor
    read: Tensor
    decay: Tensor
    d: Tensor

    def scan(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs [n, L, D] of inputs [n, L, D] from a state of 0, and the state [n, D, N] at their end."""
        n, length, width = u.shape
        size = self.answers.shape[1]
        # Zeros before the beginning leave a state of 0 as it is: they fill the first block.
        blocks = F.pad(u.permute(2, 0, 1), (-length % size, 0)).reshape(
            width, -1, size
        )  # [D, n B, P]
        given = torch.complex(*(blocks @ self.write).chunk(2, dim=-1)).unflatten(
            1, (n, -1)
        )  # [D, n, B, N]
        state, before = torch.zeros_like(given[:, :, 0]), []
        for i in range(given.shape[2]):
            before.append(state)
            state = self.decay[:, None] * state + given[:, :, i]
        carried = torch.stack(before, dim=2).flatten(1, 2)  # [D, n B, N]
        y = blocks @ self.answers + torch.cat([carried.real, carried.imag], dim=2) @ self.read
        y = y.reshape(width, n, -1)[..., -length:].permute(1, 2, 0)
        return y + self.d * u, state.transpose(0, 1)
