"""The gate by simulation: how often it errs, what it finds, and where 26 ever worse candidates lead it.

    python -m benchmarks.gate [first level power walk] [--simulations 1000]

Every query has one relevant document, so that its nDCG@10 is 1 / log2(1 + rank), or 0 below rank 10. The logarithm of
the champion's rank is normal (mean 1.2, standard deviation 1.6, mean nDCG@10 0.472); a candidate moves it:

- `hardly any`, `few`, `some`, `many` ranks move: by normal noise of 0.03, 0.15, 0.4, 0.9 in the logarithm, 30 % of its
  variance shared by the candidates. Two candidates' differences to the champion correlate at 0.6.
- `rare losses`: on a fifth of the queries the rank improves by one, on a few the document is lost.

Columns: `signs` is the gate as it was (signs of shifted differences flipped, best of m tested as if alone), `t` is
Student's t with Bonferroni's correction, `gate` is `decide_promotion`. A candidate that loses the margin of 0.01 should
be promoted in 5 % of the simulations at most; 1,000 simulations show 5 % with a standard error of 0.7 %. The table
`first` is against the untouched student, which a candidate has to be better than: one that is equal should be promoted
in 5 % at most.
"""

import argparse
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import numpy.typing as npt
from scipy import stats

from distill_assets.evaluation.gate import decide_promotion

_Floats = npt.NDArray[np.float64]
_MARGIN, _ALPHA, _SEED = 0.01, 0.05, 2026
_MEAN, _SD = 1.2, 1.6  # of the logarithm of the champion's rank
_RANKS = np.arange(1.0, 12.0)  # at 11 nDCG@10 is 0, and from there one rank better can be 10


def main() -> None:
    """Print the tables that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", default=["first", "level", "power", "walk"])
    parser.add_argument("--simulations", type=int, default=1000)
    arguments = parser.parse_args()
    if "first" in arguments.tables:
        _print_first(arguments.simulations)
    if "level" in arguments.tables:
        _print_promotions("true gain -0.01", list(_KINDS), (50, 200, 500), (-_MARGIN,), arguments.simulations)
    if "power" in arguments.tables:
        kinds = [kind for kind in _KINDS if kind != "rare losses"]
        _print_promotions("true gain as given", kinds, (200,), (0.0, 0.01, 0.02, 0.03), arguments.simulations)
    if "walk" in arguments.tables:
        _print_walks(arguments.simulations // 10)


def _shifted_ranks(gains: _Floats, num_queries: int, rng: np.random.Generator, *, spread: float) -> _Floats:
    """nDCG@10 of the champion and of one candidate per true gain, (num_queries, 1 + candidates)."""
    effects = np.linspace(-0.5, 0.5, 1001)
    shifts = np.interp(gains, _mean_ndcg(effects, spread) - _mean_ndcg(np.zeros(1), spread), effects)
    log_ranks = rng.normal(_MEAN, _SD, (num_queries, 1))
    own, shared = rng.normal(size=(num_queries, 1 + len(gains))), rng.normal(size=(num_queries, 1))
    noise = np.sqrt(0.7) * own + np.sqrt(0.3) * shared
    noise[:, 0] = own[:, 0]
    return _ndcg(np.ceil(np.exp(log_ranks + spread * noise - np.append(0.0, shifts))))


def _rare_losses(gains: _Floats, num_queries: int, rng: np.random.Generator) -> _Floats:
    """The same shape; a fifth of the queries is ranked better by one, and as many are lost as the true gain asks for."""
    better = _chances(np.zeros(1), 0.0)[0] @ (_ndcg(_RANKS - 1) - _ndcg(_RANKS))
    lost = (0.2 * better - gains) / _mean_ndcg(np.zeros(1), 0.0)
    ranks = np.ceil(np.exp(rng.normal(_MEAN, _SD, (num_queries, 1))))
    chance = rng.random((num_queries, len(gains)))
    moved = np.where(chance < 0.2, ranks - 1, ranks)
    return _ndcg(np.hstack([ranks, np.where(chance > 1 - lost, np.inf, moved)]))


_KINDS: dict[str, Callable[[_Floats, int, np.random.Generator], _Floats]] = {
    "hardly any ranks": partial(_shifted_ranks, spread=0.03),
    "few ranks": partial(_shifted_ranks, spread=0.15),
    "some ranks": partial(_shifted_ranks, spread=0.4),
    "many ranks": partial(_shifted_ranks, spread=0.9),
    "rare losses": _rare_losses,
}


def _ndcg(ranks: _Floats) -> _Floats:
    ranks = np.maximum(ranks, 1)
    return np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0.0)


def _chances(effects: _Floats, spread: float) -> _Floats:
    """Chance of each of `_RANKS` for a document whose logarithm of the rank is lowered by each effect, (effects, ranks)."""
    up_to = stats.norm.cdf((np.log(_RANKS) - _MEAN + effects[:, None]) / np.hypot(_SD, spread))
    return np.diff(up_to, prepend=0.0)


def _mean_ndcg(effects: _Floats, spread: float) -> _Floats:
    return _chances(effects, spread) @ _ndcg(_RANKS)


def _print_promotions(
    title: str, kinds: list[str], sizes: tuple[int, ...], gains: tuple[float, ...], num_simulations: int
) -> None:
    """Share of simulations in which each gate promotes; all candidates of one have the same true gain."""
    print(f"\n{title}: share promoted\n\n| kind | unchanged | sd | gain | queries | m | signs | t | gate |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for kind, gain, num_queries, num_candidates in (
        (kind, gain, size, m) for kind in kinds for gain in gains for size in sizes for m in (1, 3, 10)
    ):
        rng = np.random.default_rng(_SEED)
        true = np.full(num_candidates, gain)
        drawn = [_KINDS[kind](true, num_queries, rng) for _ in range(num_simulations)]
        differences = np.concatenate([values[:, 1] - values[:, 0] for values in drawn])
        promoted = np.mean([_promotions(values) for values in drawn], axis=0)
        print(
            f"| {kind} | {(differences == 0).mean():.2f} | {differences.std():.2f} | {gain:+.2f} | {num_queries} "
            f"| {num_candidates} | " + " | ".join(f"{share:.3f}" for share in promoted) + " |",
            flush=True,
        )


def _print_first(num_simulations: int) -> None:
    """Share of simulations in which a student becomes champion in place of the untouched one, which it has to be better than."""
    print("\nagainst the untouched student: share promoted\n\n| kind | gain | queries | 1 recipe | 3 recipes |")
    print("|---|---:|---:|---:|---:|")
    for kind, draw in _KINDS.items():
        for gain in (-0.01, 0.0, 0.01, 0.03):
            for num_queries in (50, 200, 500):
                shares = []
                for num_candidates in (1, 3):
                    rng = np.random.default_rng(_SEED)
                    drawn = (draw(np.full(num_candidates, gain), num_queries, rng) for _ in range(num_simulations))
                    shares.append(np.mean([_is_first_promoted(values) for values in drawn]))
                print(f"| {kind} | {gain:+.2f} | {num_queries} | {shares[0]:.3f} | {shares[1]:.3f} |", flush=True)


def _is_first_promoted(values: _Floats) -> bool:
    named = {str(i): _by_query(column) for i, column in enumerate(values[:, 1:].T)}
    return decide_promotion(named, _by_query(values[:, 0]), margin=_MARGIN, alpha=_ALPHA).promote


def _promotions(values: _Floats) -> tuple[bool, bool, bool]:
    champion, candidates = values[:, 0], values[:, 1:]
    shifted = candidates[:, candidates.mean(axis=0).argmax()] - champion + _MARGIN
    statistic = shifted.mean() / max(shifted.std(ddof=1), 1e-12) * np.sqrt(len(shifted))
    by_t = stats.t.sf(statistic, len(shifted) - 1) * candidates.shape[1] <= _ALPHA
    return _by_signs(shifted), bool(by_t), _by_gate(list(candidates.T), champion, None)


def _by_signs(shifted: _Floats) -> bool:
    """The gate as it was, with 2,000 sign patterns."""
    sums = _signs(len(shifted)) @ shifted
    return bool(((sums >= shifted.sum() - 1e-9).sum() + 1) / (len(sums) + 1) <= _ALPHA)


@cache
def _signs(num_queries: int) -> _Floats:
    return np.random.default_rng(_SEED).choice([-1.0, 1.0], (2_000, num_queries))


def _by_gate(candidates: list[_Floats], present: _Floats, best: _Floats | None) -> bool:
    """Against a trained champion; the untouched student is as far below all of them as can be."""
    named = {str(i): _by_query(values) for i, values in enumerate(candidates)}
    others = [None if values is None else _by_query(values) for values in (present, best)]
    untouched = _by_query(np.zeros_like(present))
    return decide_promotion(named, untouched, *others, margin=_MARGIN, alpha=_ALPHA).promote


def _by_query(values: _Floats) -> dict[str, float]:
    return {str(i): value for i, value in enumerate(values.tolist())}


def _print_walks(num_simulations: int) -> None:
    """26 weekly candidates, each truly 0.004 worse than the one before it; hardly any ranks move, 500 dev queries."""
    print("\n26 candidates, each 0.004 worse than the one before: the last champion\n")
    print("| dev queries | gate | promotions | true loss, mean | worst | loses more than the margin |")
    print("|---|---|---:|---:|---:|---:|")
    for fresh in (False, True):
        for against_best in (False, True):
            rng = np.random.default_rng(_SEED)
            walks = [_walk(fresh, against_best, rng) for _ in range(num_simulations)]
            losses = np.array([loss for _, loss in walks])
            print(
                f"| {'new every week' if fresh else 'the same'} | {'gate' if against_best else 'signs'} "
                f"| {np.mean([count for count, _ in walks]):.1f} | {losses.mean():.4f} | {losses.max():.4f} "
                f"| {(losses > _MARGIN + 1e-9).mean():.3f} |",
                flush=True,
            )


def _walk(fresh: bool, against_best: bool, rng: np.random.Generator) -> tuple[int, float]:
    """Number of promotions, and how much worse than the first champion the last one truly is."""
    gains = np.linspace(-0.004, -0.104, 26)
    values = _KINDS["hardly any ranks"](gains, 500, rng)
    present = best = num_promotions = 0  # columns: the first champion is 0, the candidate of a week its number
    for week in range(1, 27):
        if fresh:
            values = _KINDS["hardly any ranks"](gains, 500, rng)
        if against_best:
            promote = _by_gate([values[:, week]], values[:, present], None if best == present else values[:, best])
        else:
            promote = _by_signs(values[:, week] - values[:, present] + _MARGIN)
        if promote:
            present, num_promotions = week, num_promotions + 1
        best = max(best, present, key=lambda column: values[:, column].mean())  # as `assets/release.py` writes it down
    return num_promotions, 0.004 * present


if __name__ == "__main__":
    main()
