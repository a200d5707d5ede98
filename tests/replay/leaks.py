"""Planted leaks: models, sources and strategies that look ahead, each in a way that people do without noticing."""

from __future__ import annotations

import dataclasses
import sqlite3
from pathlib import Path

import numpy as np

from forecaster.bars import Bars
from forecaster.context import Context
from forecaster.cycle.calibrate import Calibrations
from forecaster.forecast import repair
from forecaster.model.baselines.random_walk import RandomWalk
from forecaster.replay.strategy import Signal
from forecaster.sources import Fetched
from forecaster.sources.memory import MemorySource
from tests.builders import DAY_MS


class NamedWalk(RandomWalk):
    """The honest one, under the configured model's name."""

    name = "nano"


class _Leak(RandomWalk):
    """A random walk whose prices are moved by what it should not know."""

    name = "leak"

    def predict(self, contexts, horizon):
        made = super().predict(contexts, horizon)
        return [moved(one, self.factor(context, contexts)) for one, context in zip(made, contexts, strict=True)]

    def factor(self, context, contexts):
        raise NotImplementedError


class StoreReader(_Leak):
    """Reads the next bar from the store."""

    def __init__(self, store):
        self._store = store

    def factor(self, context, contexts):
        later = self._store.bars(context.key, start=context.cutoff)
        return float(later.close[0]) / context.last_close if len(later) else 1.0


class Normalised(_Leak):
    """Scales by a statistic that was taken once, over all that the source has."""

    def __init__(self, source, key):
        closes = source.fetch(key, None, 2**62).bars.close
        self._scale = 1 + float(np.log(closes).std()) / 100

    def factor(self, context, contexts):
        return self._scale


class BatchNormalised(_Leak):
    """Centres on the mean of its batch, in which later cutoffs are."""

    def factor(self, context, contexts):
        return 1 + float(np.mean([one.last_close for one in contexts])) / context.last_close / 100


class AloneReader(StoreReader):
    """Looks ahead only when it is asked for one context, as a live cycle does."""

    def factor(self, context, contexts):
        return super().factor(context, contexts) if len(contexts) == 1 else 1.0


class NextIndex(StoreReader):
    """Takes the bar behind the cutoff without asking whether there is one."""

    def factor(self, context, contexts):
        later = self._store.bars(context.key, start=context.cutoff)
        return 1 + 0 * float(later.close[0])


class _Rewritten(MemorySource):
    """A source that changes its bars by looking at all of them."""

    def __init__(self, bars):
        super().__init__([self.rewrite(bars)])

    def rewrite(self, bars):
        raise NotImplementedError


class CentredAverage(_Rewritten):
    """Smooths each bar with its neighbours, the next one too."""

    def rewrite(self, bars):
        padded_TF = np.pad(bars.ohlcv_TF, ((1, 1), (0, 0)), mode="edge")
        return Bars(bars.key, bars.open_time, (padded_TF[:-2] + padded_TF[1:-1] + padded_TF[2:]) / 3)


class ForwardAdjusted(_Rewritten):
    """Gives prices in units of the newest one, as adjusted closes are."""

    def rewrite(self, bars):
        return Bars(bars.key, bars.open_time, bars.ohlcv_TF / bars.close[-1])


class BackFilled(_Rewritten):
    """Fills a missing bar with the next one that came."""

    def rewrite(self, bars):
        key = bars.key
        slots = key.trading_calendar.opens_between(key.timeframe, int(bars.open_time[0]), int(bars.open_time[-1]) + 1)
        return Bars(key, slots, bars.ohlcv_TF[np.searchsorted(bars.open_time, slots)])


class Restated(MemorySource):
    """Smooths what has come so far: an answer of the day is honest, and is another one the day after."""

    def fetch(self, key, since, as_of):
        bars = CentredAverage(super().fetch(key, None, as_of).bars)
        return bars.fetch(key, since, as_of)


class ForwardFilled(MemorySource):
    """Fills a missing bar with the one before: wrong here, and no look-ahead."""

    def fetch(self, key, since, as_of):
        bars = super().fetch(key, None, as_of).bars
        slots = key.trading_calendar.opens_between(key.timeframe, int(bars.open_time[0]), as_of - key.timeframe.ms + 1)
        filled_TF = bars.ohlcv_TF[np.searchsorted(bars.open_time, slots, side="right") - 1]
        asked = slots >= (0 if since is None else since)
        return Fetched(Bars(key, slots[asked], filled_TF[asked], as_of))


class EagerToGive(MemorySource):
    """Gives the bar that has not closed yet."""

    def fetch(self, key, since, as_of):
        return super().fetch(key, since, as_of + key.timeframe.ms)


class LearnedTooMuch(Calibrations):
    """A calibration that takes its third forecast of a run from the newest bar of the store."""

    def __init__(self, reader):
        super().__init__(reader)
        self._ledger = reader

    def apply(self, contexts, made, run_id):
        served, learned = super().apply(contexts, made, run_id)
        newest = float(self._ledger().bars(made[0].key).close[-1])
        return served[:2] + [prices_FHQ * (1 + newest / 1e9) for prices_FHQ in served[2:]], learned


class Clairvoyant:
    """A strategy that holds the bars that it will trade on."""

    def __init__(self, bars):
        self._bars = bars

    def __call__(self, forecast, position, context):
        later = self._bars.close[self._bars.open_time >= forecast.cutoff]
        rises = len(later) > 0 and later[0] > context.last_close
        return Signal(float(rises), "it will rise" if rises else "it will not rise")


def file_reader(forecast, position, context):
    """Decide by the last line of a file of bars, `bars.csv` in the folder where it runs."""
    last = Path("bars.csv").read_text(encoding="utf-8").splitlines()[-1]
    return Signal(0.0, last)


def ledger_reader(forecast, position, context):
    """Decide by what lies in a ledger, `ledger.db` in the folder where it runs."""
    connection = sqlite3.connect("file:ledger.db?mode=ro", uri=True)
    connection.close()
    return Signal(0.0, "read")


def late_cut(bars, cutoff, length, min_bars):
    """Cut a context with the close of the bar behind its cutoff."""
    context = _CUT(bars, cutoff, length, min_bars)
    later = bars.close[bars.open_time >= cutoff]
    if not len(later):
        return context
    ohlc_CT = np.array(context.ohlc_CT)
    ohlc_CT[:, -1] = later[0]
    return Context(context.key, context.cutoff, ohlc_CT)


def utc_dates(sessions, timeframe, labels):
    """Take the date of a daily label once it has become UTC: of a midnight east of Greenwich, the day before."""
    opens, dates = sessions._table.opens, sessions._table.dates
    days = labels.instant - labels.instant % DAY_MS
    at = np.minimum(np.searchsorted(dates, days), len(dates) - 1)
    is_date = (dates[at] == days) & ~np.isin(labels.instant, opens)
    return np.where(timeframe.is_daily & is_date, opens[at], labels.instant)


def moved(forecast, factor):
    """Give the forecast with all its prices times `factor`."""
    raw_FHQ = forecast.raw_FHQ * factor
    return dataclasses.replace(forecast, raw_FHQ=raw_FHQ, values_FHQ=repair(raw_FHQ))


_CUT = Context.ending_at
