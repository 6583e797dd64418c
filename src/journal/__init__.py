"""The run's memory: events on disk, and the state that they add up to.

| module | what it is |
| --- | --- |
| file | the journal on disk: one line an event, each with a checksum, appended and synced |
| events | the fields that an event must have, for a journal that somebody else may have written |
| state | what the events add up to |
"""

from src.journal.events import CutOff
from src.journal.file import VERSION, VOLATILE, Event, Follower, Journal, events_of, parse
from src.journal.state import Compared, HeldOut, State, cache_savings, replay, run_state
