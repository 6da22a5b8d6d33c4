"""Settings that every family shares, as the panel's data set completes them."""

from jobs.data.catalog import PANEL

SHARED = {
    "data": PANEL.name,
    "calendar": PANEL.calendar,
    "fit_until": PANEL.splits.fit_until,
    "choose_until": PANEL.splits.choose_until,
}
