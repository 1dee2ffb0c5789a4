"""Ways to break every method: the list that `mutation` tries."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """``old`` occurs once in ``file`` and becomes ``new``."""

    method: str
    description: str
    old: str
    new: str
    path: str = ""

    @property
    def file(self) -> str:
        """The file that is changed, relative to the repository."""
        return self.path or f"cssp/methods/{self.method}.py"

    def applied(self, text: str) -> str:
        """Return the changed text; raise ValueError where the old code does not occur exactly once."""
        if text.count(self.old) != 1:
            raise ValueError(
                f"{self.method}, {self.description}: {self.old!r} occurs {text.count(self.old)} times"
            )
        mutated = text.replace(self.old, self.new)
        compile(mutated, self.file, "exec")
        return mutated


_SAMPLING = "cssp/sampling.py"
_SHARED = "cssp/methods/_shared.py"
_RELAXATION = "cssp/methods/_relaxation.py"
_PART = "cssp/part.py"
_MEMORY = "cssp/pivoting/memory.py"
_GRAM = "cssp/pivoting/gram.py"
_RUN = "cssp/pivoting/run.py"
_BASES = "cssp/pivoting/bases.py"
_LINALG = "cssp/linalg.py"
_EXPONENTS = "cssp/pivoting/exponents.py"
_EXCHANGE = "cssp/methods/_exchange.py"
_RESIDUALS = "cssp/residuals.py"
_WIDTHS = "cssp/bounds/widths.py"
_WHOLE = "cssp/conditions/whole.py"
_ONE_BY_ONE = "cssp/conditions/one_by_one.py"
_BUDGETS = "cssp/bounds/conditions.py"

MUTANTS = [
    # one column after another
    Mutant("residual", "norms never downdated", "N = N - squares(conjugate(q) @ A)", "N = N + 0 * N"),
    Mutant(
        "residual", "missing square", "N = N - squares(conjugate(q) @ A)", "N = N - abs(conjugate(q) @ A)"
    ),
    Mutant(
        "residual",
        "the last columns",
        "j = p.argmax(N, open_, norm_slack(exact, eps))",
        "j = int(xp.max(xp.nonzero(open_)[0]))",
    ),
    Mutant(
        "residual", "one pick short", "while len(indices) < p.k:", "while len(indices) < max(1, p.k - 1):"
    ),
    Mutant("residual", "cancelled norms never formed anew", "if bool(xp.any(stale)):", "if False:"),
    Mutant("pivoted_qr", "no pivoting", "free[order[:found]]", "free[:found]"),
    Mutant("pivoted_qr", "the last pivots", "free[order[:found]]", "free[order[::-1][:found]]"),
    Mutant(
        "pivoted_qr",
        "included columns not projected away",
        "C = project_off(A, Q)",
        "C = A",
    ),
    Mutant("pivoted_qr", "zero pivots taken", "heights > p.noise", "heights >= 0"),
    Mutant("pivoted_qr", "rivals overlooked", "np.any(left >= bar, axis=0)", "np.any(left < 0, axis=0)"),
    Mutant("pivoted_qr", "swaps of other columns", "np.union1d(among[:m], ", "np.union1d(among[-m:], "),
    # several picks guessed, then verified
    Mutant("residual", "guesses taken unverified", "int(np.argmin(right))", "size - 1", _RUN),
    Mutant("residual", "one guess too many", "int(np.argmin(right))", "int(np.argmin(right)) + 1", _RUN),
    Mutant("residual", "verified one step late", "- fallen[:-1, a:b]", "- fallen[1:, a:b]", _RUN),
    Mutant("residual", "not accumulated", "np.cumsum(lost, axis=0, out=lost)", "lost", _RUN),
    Mutant("residual", "stale norms may win", "(stale < bar)", "(bar == bar)", _RUN),
    Mutant("residual", "stale norms kept", "np.any(contend & stale)", "np.any(contend & False)", _RUN),
    Mutant("residual", "not orthogonal to the basis", "V -= (V @ Q.conj()) @ Q.T", "pass", _RUN),
    Mutant("residual", "Cholesky QR at any price", "CANCELLED = 16", "CANCELLED = 1e300", _BASES),
    Mutant(
        "residual",
        "guesses never given up",
        "self.steps_before_guess = self.pause",
        "self.steps_before_guess = 0",
        _MEMORY,
    ),
    Mutant(
        "residual",
        "never a guess",
        "if self.steps_before_guess or length < 2",
        "if True or length < 2",
        _MEMORY,
    ),
    # picks from the Gram matrix
    Mutant(
        "residual",
        "errors never grow",
        "errors[i + 1] += errors[i]",
        "errors[i + 1] = errors[i]",
        _GRAM,
    ),
    Mutant(
        "residual",
        "errors of the picks before forgotten",
        "self.exact + self.exact[self.S] @ squares(self.Y[:b])",
        "self.exact",
        _GRAM,
    ),
    Mutant("residual", "correlated errors not seen", "MOST_GROWTH = 2.0", "MOST_GROWTH = 1e300", _GRAM),
    Mutant(
        "residual",
        "no doubt",
        "certain = (lowest == run) & (alone | tied)",
        "certain = lowest == lowest",
        _GRAM,
    ),
    Mutant("residual", "columns for residuals", "W[S] = -Y", "pass", _GRAM),
    Mutant("residual", "the inverse without its sign", "self.Y[:a, run] @ -X", "self.Y[:a, run] @ X", _GRAM),
    Mutant(
        "residual",
        "stale norms may win",
        "stale = np.any(near & (self.half >= Z), axis=1)",
        "stale = np.zeros(size, dtype=bool)",
        _GRAM,
    ),
    Mutant(
        "residual",
        "no residuals after included columns",
        "X = project_off(A, basis(take_columns(A, picks), p.noise), times=1)",
        "X = A",
        _MEMORY,
    ),
    # the largest gain
    Mutant("greedy", "a row of the Gram matrix as it is", "- conjugate(R[:, j]) @ R) / norm", ") / norm"),
    Mutant("greedy", "no normalisation", "xp.where(eligible, self.f / g,", "xp.where(eligible, self.f,"),
    Mutant("greedy", "the rule of pivoted QR", "xp.where(eligible, self.f / g,", "xp.where(eligible, g,"),
    Mutant("greedy", "cross term halved", "self.f - 2 * rh", "self.f - rh"),
    Mutant("greedy", "drop a term", "- 2 * rh + ss * sq(r)", "- 2 * rh"),
    Mutant(
        "greedy", "directions before forgotten", "- (conjugate(s) @ adjoint(S[since, :])) @ R[since, :]", ""
    ),
    Mutant("greedy", "v instead of Fs", "h = h + ss * r", "h = h"),
    Mutant("greedy", "g never downdated", "xp.maximum(self.g - sq(r), zero)", "self.g"),
    Mutant(
        "greedy",
        "stale values may win",
        "risky = stale & (score + rounding >= bar)",
        "risky = stale & (score >= 2 * bar)",
    ),
    Mutant(
        "greedy", "residuals less the picks once more", "self.R[: self.t, j] = 0", "self.R[: self.t, j] += 0"
    ),
    Mutant("greedy", "doubts not foreseen", "if self.doubts >= FEW else 0", "if self.doubts < 0 else 0"),
    Mutant("greedy", "picks independent come what may", "> self.p.beyond_doubt**2", "> -1"),
    Mutant(
        "residual",
        "products with A kept in part",
        "self.W[r : r + len(R), part] = R",
        "self.W[r, part] = R[0]",
        _MEMORY,
    ),
    Mutant(
        "certificate", "Cholesky QR of any condition", "< most**2 * lam[0]", "< most**9 * lam[0]", _LINALG
    ),
    Mutant(
        "certificate",
        "dependent columns like others",
        "if quick and cut * np.linalg.norm(",
        "if quick and 0 * np.linalg.norm(",
        _LINALG,
    ),
    Mutant("certificate", "Cholesky QR once", "[: 1 if E.dtype != C.dtype else 2]", "[:1]", _LINALG),
    Mutant("leverage_top", "missing square", "Vh[:r].norms2()", "np.sqrt(Vh[:r].norms2())"),
    Mutant(
        "leverage_top", "the smallest scores", "h.argmax(leverage, open_)", "h.argmax(2 - leverage, open_)"
    ),
    Mutant("leverage_top", "trailing vectors", "Vh[:r].norms2()", "Vh[-r:].norms2()"),
    Mutant("leverage_top", "one vector too many", "Vh[:r].norms2()", "Vh[: r + 1].norms2()"),
    Mutant(
        "farthest",
        "distance to the last pick only",
        "self.low = np.minimum(self.low, both - 2 * product - slack)",
        "self.low = both - 2 * product - slack",
    ),
    Mutant(
        "farthest",
        "starts anywhere",
        "if indices else p.norms2",
        "if indices else xp.ones_like(p.norms2)",
    ),
    Mutant(
        "farthest",
        "sum for difference",
        "column_norms2(A[:, b : min(b + step, n)] - a)",
        "column_norms2(A[:, b : min(b + step, n)] + a)",
    ),
    Mutant("farthest", "bounds without rounding", "(q.height + 4) * q.eps * both", "0 * both"),
    Mutant("farthest", "half of the chosen seen", "self.chosen[self.measured[j] :]", "self.chosen[-1:]"),
    # samplers
    Mutant(
        "norm",
        "missing square",
        "rate = host(p.norms2).astype(np.float64)",
        "rate = np.sqrt(host(p.norms2).astype(np.float64))",
    ),
    Mutant("norm", "clock not divided by the rate", "] - np.log(rate", "] + np.log(rate"),
    Mutant(
        "norm",
        "uniform",
        "rate = host(p.norms2).astype(np.float64)",
        "rate = (host(p.norms2) > 0).astype(np.float64)",
    ),
    Mutant(
        "uniform", "the first columns", "p.rng.permutation(p.n)", "p.rng.permutation(p.n) * 0 + range(p.n)"
    ),
    Mutant("uniform", "with repeats", "p.rng.permutation(p.n)", "p.rng.integers(0, p.n, p.n)"),
    Mutant(
        "uniform",
        "excluded columns too",
        "order = order[host(p.candidates)[order]]",
        "order = order[host(p.candidates)[order] | True]",
    ),
    Mutant(
        "volume",
        "missing square",
        "_eigenvectors((s / s[0]) ** 2, k, p.rng)",
        "_eigenvectors(s / s[0], k, p.rng)",
    ),
    Mutant(
        "volume",
        "always the leading vectors",
        "sampling.projection_dpp(Vh[chosen].formed().T, p.rng)",
        "sampling.projection_dpp(Vh[:k].formed().T, p.rng)",
    ),
    Mutant("volume", "drop a term of the recursion", "/ (1 + x / rho[:top])", "/ 1"),
    Mutant("volume", "one off in the table", "P[k - len(chosen), j]", "P[max(1, k - len(chosen) - 1), j]"),
    Mutant(
        "arp",
        "trailing vectors",
        "sampling.projection_dpp(Vh[:k].formed().T, p.rng)",
        "sampling.projection_dpp(Vh[-k:].formed().T, p.rng)",
    ),
    Mutant(
        "arp",
        "one vector too few",
        "sampling.projection_dpp(Vh[:k].formed().T, p.rng)",
        "sampling.projection_dpp(Vh[: max(1, k - 1)].formed().T, p.rng)",
    ),
    Mutant("arp", "missing square", "d = column_norms2(V.T)", "d = np.sqrt(column_norms2(V.T))", _SAMPLING),
    Mutant(
        "arp",
        "not projected off",
        "orthogonalise(V[J[-1]].conj(), Q[:, :t])",
        "orthogonalise(V[J[-1]].conj(), Q[:, :0])",
        _SAMPLING,
    ),
    Mutant(
        "arp",
        "cancelled norms never formed anew",
        "if stale.size:\n            left",
        "if False:\n            left",
        _SAMPLING,
    ),
    Mutant(
        "random_pivot",
        "missing square",
        "if E.take(sampling.draw(d, rng)):",
        "if E.take(sampling.draw(np.sqrt(d), rng)):",
    ),
    Mutant(
        "random_pivot",
        "no deflation",
        "if E.take(sampling.draw(d, rng)):\n            E.update()",
        "E.take(sampling.draw(d, rng))",
    ),
    Mutant("random_pivot", "proposals never rejected", "if u * d[j] < height**2:", "if height > 0:"),
    Mutant(
        "random_pivot", "rejection without the square", "if u * d[j] < height**2:", "if u * d[j] < height:"
    ),
    Mutant(
        "adaptive",
        "missing square",
        "            j = sampling.draw(d, p.rng)",
        "            j = sampling.draw(np.sqrt(d), p.rng)",
    ),
    Mutant(
        "adaptive",
        "norms not updated between rounds",
        "            s -= E.take(j)\n        E.update()",
        "            s -= E.take(j)",
    ),
    Mutant("blockwise_pivot", "no filter", "int(np.sum(left > share * left[0]))", "len(left)"),
    Mutant(
        "blockwise_pivot",
        "what is left without the square",
        "np.sum(sq(R), axis=1)",
        "np.sum(abs(R), axis=1)",
    ),
    Mutant(
        "blockwise_pivot",
        "norms not updated between blocks",
        "            E.take(int(j))\n        E.update()",
        "            E.take(int(j))",
    ),
    Mutant(
        "blockwise_pivot",
        "the block is not a residual",
        "project_off(E.A.take(J.tolist()), E.Q[:, : E.r])",
        "E.A.take(J.tolist())",
    ),
    Mutant(
        "blockwise_pivot",
        "the wrong columns of the block",
        "np.asarray(order[: max(",
        "np.asarray(sorted(order)[: max(",
    ),
    Mutant(
        "interlacing", "one column to come too many", "min(k - len(S), s.size) - 1", "min(k - len(S), s.size)"
    ),
    Mutant(
        "interlacing",
        "the largest root is raised",
        "root.min() * (1 + TIES)",
        "root[allowed].max() * (1 + TIES)",
    ),
    Mutant(
        "interlacing",
        "columns in the wrong basis",
        "sq(C[:, allowed]) / norms2[allowed]",
        "sq(C[::-1, allowed]) / norms2[allowed]",
    ),
    Mutant("interlacing", "no deflation", "C - np.outer(q, q.conj() @ C), full", "C, full"),
    Mutant(
        "interlacing",
        "a derivative too few",
        "for _ in range(k):",
        "for _ in range(k - 1):",
        "cssp/bounds/interlacing.py",
    ),
    Mutant(
        "interlacing",
        "the wrong weights",
        "x = secular_roots(x, x)",
        "x = secular_roots(x, np.ones_like(x))",
        "cssp/bounds/interlacing.py",
    ),
    Mutant("barrier", "the barrier stays", "l = _level(x, epsilon)", "pass"),
    Mutant(
        "barrier",
        "the least fall of the potential",
        "(fall / (1 + grown))[a.first]",
        "((1 + grown) / fall)[a.first]",
    ),
    Mutant("barrier", "missing square", "np.stack([M**2, M])", "np.stack([M, M])"),
    Mutant("barrier", "in the wrong basis", "adjoint(W) @ V", "W @ V", _SHARED),
    Mutant(
        "barrier",
        "one vector too few",
        "steps(a, Vh[:r].formed(), p.free)",
        "steps(a, Vh[: max(1, r - 1)].formed(), p.free)",
    ),
    Mutant("adaptive", "rounds of one column too many", "k // t + (i < k % t)", "k // t + (i <= k % t)"),
    Mutant("leverage", "missing square", "Vh[:r].norms2()", "np.sum(np.abs(Vh[:r].formed()), axis=0)"),
    Mutant("leverage", "all singular vectors", "Vh[:r].norms2()", "Vh.norms2()"),
    Mutant(
        "leverage",
        "uniform",
        "sampling.successive(scores, k, p.rng)",
        "sampling.successive(np.sign(scores), k, p.rng)",
    ),
    Mutant(
        "two_stage", "sample not rescaled", "M = V.columns(place) / np.sqrt(q[place])", "M = V.columns(place)"
    ),
    Mutant("two_stage", "no second stage", "for i in found.indices]", "for i in range(len(found.indices))]"),
    Mutant(
        "two_stage",
        "leverage only",
        "return (leverage + Vh.norms2(tail) / np.sum(tail)) / 2",
        "return leverage",
    ),
    Mutant(
        "two_stage",
        "missing square",
        "np.where(np.arange(s.size) < r, 0, s / s[r]) ** 2",
        "np.where(np.arange(s.size) < r, 0, s / s[r])",
    ),
    Mutant("sketched_qr", "first rows for a sketch", "B = Omega @ E", "B = E[:l] + 0 * Omega.sum()"),
    Mutant(
        "sketched_qr",
        "no pivoting",
        "J = list(residual(Problem(A=B, k=min(k, b, B.shape[1]), candidates=open_)).indices)",
        "J = list(range(min(k, b, B.shape[1])))",
    ),
    Mutant("sketched_qr", "no sketch", "residual(Problem(A=B,", "residual(Problem(A=E,"),
    # deterministic
    Mutant("strong_rrqr", "no swap", "if not rho > f:", "if True:"),
    Mutant(
        "strong_rrqr",
        "drop the coefficients",
        "return sq(solve_triangular(R11, R12)) + omega2_inverse[:, None] * gamma2",
        "return omega2_inverse[:, None] * gamma2",
    ),
    Mutant(
        "strong_rrqr",
        "drop the residuals",
        "return sq(solve_triangular(R11, R12)) + omega2_inverse[:, None] * gamma2",
        "return sq(solve_triangular(R11, R12))",
    ),
    Mutant(
        "strong_rrqr",
        "missing square",
        "gamma2 = column_norms2(project_off(a.E[:, part], Q))",
        "gamma2 = np.sqrt(column_norms2(project_off(a.E[:, part], Q)))",
    ),
    Mutant(
        "strong_rrqr", "columns of other sums", "np.isin(group, sums)", "np.isin(group, sums, invert=True)"
    ),
    Mutant("strong_rrqr", "sums without signs", "(E * sign).T", "E.T"),
    Mutant("strong_rrqr", "the wrong column goes", "S[i] = j", "S[i - 1] = j"),
    Mutant(
        "osinsky",
        "sees V only",
        "a.best(d.w2 / (d.e2 + delta), allowed)",
        "a.best(d.w2, allowed)",
    ),
    Mutant("osinsky", "E not updated", "M=self.E.M - np.outer(e, row)", "M=self.E.M"),
    Mutant(
        "osinsky", "W not deflated", "self.w2 = np.maximum(self.w2 - share * self.w2[j], 0)", "self.w2[j] = 0"
    ),
    Mutant(
        "osinsky",
        "missing square",
        "a.best(d.w2 / (d.e2 + delta), allowed)",
        "a.best(np.sqrt(d.w2) / (d.e2 + delta), allowed)",
    ),
    Mutant(
        "osinsky",
        "wrong normalisation",
        "row = w.conj() @ self.W.M / self.w2[j]",
        "row = w.conj() @ self.W.M / np.sqrt(self.w2[j])",
    ),
    Mutant(
        "volume_derandomized",
        "one off in r",
        "r = min(k - len(S), s.size) - 1",
        "r = max(0, min(k - len(S), s.size) - 2)",
    ),
    Mutant(
        "volume_derandomized", "missing square", "_conditional(s**2, sq(Vh), r)", "_conditional(s, sq(Vh), r)"
    ),
    Mutant(
        "volume_derandomized",
        "the most probable column",
        "near = allowed & (expected <= np.min(expected[allowed]) * (1 + TIES) + slack)",
        "near = allowed",
    ),
    Mutant(
        "volume_derandomized",
        "no deflation",
        "(np.eye(s.size) - np.outer(q, q.conj())) * s",
        "np.eye(s.size) * s",
    ),
    Mutant(
        "deim",
        "no interpolation",
        "r = V[:, t] - V[:, :t] @ np.linalg.solve(V[S, :t], V[S, t])",
        "r = V[:, t].copy()",
    ),
    Mutant("deim", "wrong normalisation", "V[:, t] = r / r[j]", "V[:, t] = r / r[0]"),
    Mutant("deim", "no triangular system", "np.linalg.solve(V[S, :t], V[S, t])", "V[S, t]"),
    Mutant("deim", "signed entries", "a.best(np.abs(r), open_)", "a.best(np.maximum(r.real, 0), open_)"),
    Mutant("deim", "vectors one off", "V = Vh[:k].formed().T", "V = Vh[::-1][:k].formed().T"),
    Mutant("qdeim", "singular values left in", "A=Vh[:k].formed(),", "A=_[:k, None] * Vh[:k].formed(),"),
    Mutant("qdeim", "trailing vectors", "A=Vh[:k].formed(),", "A=Vh[-k:].formed(),"),
    Mutant("qdeim", "one pick short", "k=k, candidates=a.open", "k=max(1, k - 1), candidates=a.open"),
    Mutant("gappypod_e", "the largest eigenvalue raised", "U2[0])\n", "U2[-1])\n"),
    Mutant(
        "gappypod_e",
        "gap to the largest",
        "eigenvalues[1] - eigenvalues[0]",
        "eigenvalues[-1] - eigenvalues[0]",
    ),
    Mutant(
        "gappypod_e",
        "trailing modes",
        "V = Vh[: min(rank, most)].formed()",
        "V = Vh[-min(rank, most) :].formed()",
    ),
    Mutant("gappypod_e", "one mode undetermined", "len(p.include) + len(V))", "len(p.include) + len(V) - 1)"),
    Mutant(
        "bss",
        "barrier one step ahead",
        "lower = tau - math.sqrt(r * k)",
        "lower = tau - 1 - math.sqrt(r * k)",
    ),
    Mutant("bss", "drop a term", "/ growth - 1 / gap", "/ growth"),
    Mutant("bss", "errors of the columns ignored", "U = e2 * (shrink / (np.sum(e2) or 1.0))", "U = 0 * e2"),
    Mutant("bss", "missing square", "(1 / gap**2 / growth", "(1 / gap / growth"),
    Mutant("local_search", "no swap", "while a.noise**2 < F and", "while False and"),
    Mutant("local_search", "drop the cross term", "gain *= 2", "gain *= 0"),
    Mutant("local_search", "drop the gain", "gain += f", "pass"),
    Mutant("local_search", "the wrong column goes", "T = [*S[:i], j, *S[i + 1 :]]", "T = [*S[:-1], j]"),
    Mutant("exact", "no search", "while stack and a.k and self.error", "while False and self.error"),
    Mutant(
        "exact",
        "bound one singular value too many",
        "bound = node.lost + np.sum(spectra[:, r - 1 :], axis=1)",
        "bound = node.lost + np.sum(spectra[:, r - 2 :], axis=1)",
    ),
    Mutant(
        "exact",
        "the last branch never taken",
        "t = np.arange(alive.size - r + 1)",
        "t = np.arange(alive.size - r)",
    ),
    Mutant(
        "exact",
        "the worst last column",
        "last = np.flatnonzero(gain >= gain.max() - 1e-12 * total)",
        "last = np.flatnonzero(gain <= gain.min() + 1e-12 * total)",
    ),
    Mutant(
        "exact",
        "relaxation: one eigenvalue too many",
        "psi, rank - r, allowed, out)",
        "psi, rank - r + 1, allowed, out)",
        _RELAXATION,
    ),
    Mutant(
        "exact",
        "relaxation: the value for the tangent's least",
        "value + best - here - ROUNDING * size",
        "value - ROUNDING * size",
        _RELAXATION,
    ),
    Mutant(
        "exact",
        "relaxation: missing square",
        "np.squeeze(slope[:, None, :] @ (Z.conj() * Z).real, 1) / x**2",
        "np.squeeze(slope[:, None, :] @ (Z.conj() * Z).real, 1) / x",
        _RELAXATION,
    ),
    Mutant(
        "exact",
        "relaxation: shift left out",
        "f = 1 / (self.psi[:, None] + np",
        "f = 1 / (0 * self.psi[:, None] + np",
        _RELAXATION,
    ),
    Mutant(
        "exact",
        "relaxation: one column too many left out",
        "out = np.sum(allowed, axis=1) - r",
        "out = np.sum(allowed, axis=1) - r + 1",
        _RELAXATION,
    ),
    # columns equal but for rounding
    Mutant(
        "greedy",
        "a tie to the lowest index",
        "p.best_gain(score, self.g, fresh, rounding, slack)",
        "p.argmax(score, fresh, rounding)",
    ),
    Mutant(
        "greedy",
        "dependent columns like others",
        "p.eligible(self.g, open_ & ~stale)",
        "open_ & ~stale & (self.g > p.noise**2)",
    ),
    Mutant("volume_derandomized", "rounding for a direction", "NEGLIGIBLE = 1e-20", "NEGLIGIBLE = 0"),
    Mutant("local_search", "rounding for a direction", "(CLEAR * a.noise) ** 2", "0"),
    Mutant(
        "local_search",
        "rounding in the start",
        "basis(a.E[:, S], CLEAR * a.noise)",
        "basis(a.E[:, S], a.noise)",
    ),
    Mutant("exact", "rounding for a direction", "CLEAR * self.a.noise", "self.a.noise"),
    # the exponent p
    Mutant(
        "greedy",
        "p: squares for norms",
        "_power(x2 / unit[..., None], p / 2)",
        "_power(x2 / unit[..., None], p)",
        _RESIDUALS,
    ),
    Mutant("greedy", "p: no root", "total ** (1 / p)", "total", _RESIDUALS),
    Mutant(
        "greedy", "p: no downdate of G", "self.G - conjugate(r)[:, None] * s[None, :]", "self.G", _EXPONENTS
    ),
    Mutant(
        "greedy",
        "p: wrong conjugate",
        "conjugate(r)[:, None] * s[None, :]",
        "r[:, None] * s[None, :]",
        _EXPONENTS,
    ),
    Mutant(
        "greedy", "p: h never downdated", "self.xp.maximum(self.f - squares(s), zero)", "self.f", _EXPONENTS
    ),
    Mutant(
        "greedy",
        "p: no normalisation",
        "t = self.f - squares(self.G[part, :]) / g[part][:, None]",
        "t = self.f - squares(self.G[part, :])",
        _EXPONENTS,
    ),
    Mutant(
        "greedy",
        "p: the last of equals",
        "return int(J[0])",
        "return int(J[-1])",
        _EXPONENTS,
    ),
    Mutant(
        "local_search",
        "p: drop the cross term",
        "sq(d[i]) * e2[part][:, None] - 2 * cross - sq(G)",
        "sq(d[i]) * e2[part][:, None] - sq(G)",
        _EXCHANGE,
    ),
    Mutant("local_search", "p: drop the gain", "- 2 * cross - sq(G)", "- 2 * cross", _EXCHANGE),
    Mutant(
        "local_search",
        "p: the Frobenius error",
        "np.where(clear, p_norm(h2, p), math.inf)",
        "np.where(clear, p_norm(h2, 2), math.inf)",
        _EXCHANGE,
    ),
    # the largest residual against the width
    Mutant(
        "certificate",
        "width: the sum for the mean",
        "float(np.linalg.norm(s[k:])) / math.sqrt(n)\n    low",
        "float(np.linalg.norm(s[k:]))\n    low",
        "cssp/certificate.py",
    ),
    Mutant("certificate", "width: one power too few", "(q2 ** (k + 1) - 1)", "(q2**k - 1)", _WIDTHS),
    Mutant(
        "certificate",
        "width: the factor of the rate halved",
        "math.sqrt(2) / gamma * float(",
        "math.sqrt(2) / 2 / gamma * float(",
        _WIDTHS,
    ),
    Mutant(
        "certificate",
        "width: exchanges at any f",
        'return 1 + check_real("f", f, 1.0) * check_int',
        'return 1 + 0 * check_real("f", f, 1.0) + 0 * check_int',
        _WIDTHS,
    ),
    Mutant(
        "certificate",
        "width: distances for their inverses",
        "s[0] / np.sum(duals)",
        "s[0] * np.sum(1 / duals)",
        _WIDTHS,
    ),
    Mutant(
        "certificate",
        "width: volume sampling in a p-norm one too good",
        'return 1.0 + check_int("k", k, 0)',
        'return 0.0 + check_int("k", k, 0)',
        _WIDTHS,
    ),
    Mutant(
        "certificate",
        "width: adaptive sampling in a p-norm one factor too good",
        "math.factorial(k + 1)",
        "math.factorial(k)",
        _WIDTHS,
    ),
    # the certificate
    Mutant(
        "certificate",
        "optimum one off",
        "float(np.sum(s[k:] ** 2)), noise)",
        "float(np.sum(s[k + 1 :] ** 2)), noise)",
        _PART,
    ),
    Mutant("certificate", "missing square", "max(1.0, 1 / smallest**2)", "max(1.0, 1 / smallest)", _PART),
    Mutant(
        "certificate",
        "optimum above the error",
        "min(error, optimum) if close else optimum",
        "optimum",
        _PART,
    ),
    Mutant(
        "certificate",
        "theorem claimed after include or exclude",
        "return free and unchanged",
        "return unchanged",
        _PART,
    ),
    Mutant(
        "certificate",
        "expectation claimed after tol",
        "and unchanged and fixed and",
        "and unchanged and",
        _PART,
    ),
    Mutant("certificate", "dependent columns certified", "and self.rank == k", "", _PART),
    Mutant(
        "certificate",
        "other rank's factor as it is",
        "None if factor is None else factor * theirs / optimum",
        "factor",
        _PART,
    ),
    # groups, constraints, costs
    Mutant(
        "residual",
        "groups by their mean",
        "score, slack = self._sum(self.N), ",
        "score, slack = self._sum(self.N) / self.size, ",
        _WHOLE,
    ),
    Mutant(
        "greedy",
        "groups by one direction",
        "explained = column_norms2(adjoint(self.F) @ blocks)",
        "explained = column_norms2(adjoint(self.F) @ blocks) * np.append(True, owner[1:] != owner[:-1])",
        _WHOLE,
    ),
    Mutant("greedy", "costs ignored", "gain / self.price,", "gain,", _WHOLE),
    Mutant("residual", "costs ignored", "d.argmax(score / self.price,", "d.argmax(score,", _WHOLE),
    Mutant(
        "greedy",
        "products of the beginning",
        "self.T -= (adjoint(self.F) @ U) @ R",
        "self.T -= 0 * (adjoint(self.F) @ U) @ R",
        _WHOLE,
    ),
    Mutant(
        "residual",
        "constraint asked once",
        "if taken and (not now[j]",
        "if False and (not now[j]",
        _ONE_BY_ONE,
    ),
    Mutant("residual", "what opens again is not seen", " or np.any(now & ~open_)", "", _ONE_BY_ONE),
    Mutant(
        "greedy",
        "a budget of several units",
        "-math.expm1(-gamma * check_real",
        "-math.expm1(-4 * gamma * check_real",
        _BUDGETS,
    ),
    Mutant(
        "residual",
        "no factor of the size of groups",
        "return (G - k) * b * M",
        "return (G - k) * M / 9",
        _BUDGETS,
    ),
]
