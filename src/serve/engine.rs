//! The model's own thread: takes requests from a bounded queue into the scheduler and sends each
//! its tokens. Handlers know the model only through [`Queue`].

use super::log;
use super::metrics::Metrics;
use crate::generate::{Finish, GenerateSettings, Scheduler, SequenceEvent, SequenceId};
use crate::ops::{Operations, Planner};
use anyhow::Result;
use serde_json::json;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, MutexGuard};
use tokio::sync::mpsc::UnboundedSender;

/// One text to continue. Whoever drops the receiver of `events` gives it up.
pub(super) struct Job {
    pub prompt: Vec<u32>,
    pub settings: GenerateSettings,
    /// Holds at most the answer's tokens, so it needs no bound of its own.
    pub events: UnboundedSender<JobEvent>,
}

/// What becomes of a job.
#[derive(Debug)]
pub(super) enum JobEvent {
    /// The next token.
    Token(u32),
    /// No more tokens.
    Finished(Finish),
    /// The model failed on this text.
    Failed,
}

/// Why a job was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// This many are waiting already.
    Full(usize),
    /// The server stops.
    Closed,
}

/// Where jobs wait. Bounded: a request that would wait for long is better told so at once.
pub(super) struct Queue {
    state: Mutex<Waiting>,
    changed: Condvar,
    capacity: usize,
}

struct Waiting {
    jobs: VecDeque<Job>,
    closed: bool,
    /// Jobs under way are given up, too.
    aborted: bool,
}

impl Queue {
    /// For up to `capacity` waiting jobs.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            state: Mutex::new(Waiting {
                jobs: VecDeque::new(),
                closed: false,
                aborted: false,
            }),
            changed: Condvar::new(),
            capacity,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Puts a job at the end.
    ///
    /// # Errors
    /// Where the queue is full or closed.
    pub(crate) fn submit(&self, job: Job) -> Result<(), Refusal> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refusal::Closed);
        }
        // Those who went away do not count.
        state.jobs.retain(|job| !job.events.is_closed());
        if state.jobs.len() >= self.capacity {
            return Err(Refusal::Full(state.jobs.len()));
        }
        state.jobs.push_back(job);
        self.changed.notify_one();
        Ok(())
    }

    /// Jobs that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().jobs.len()
    }

    /// Takes no more jobs; the thread ends when it has nothing left to do, or at once with `abort`.
    pub(crate) fn close(&self, abort: bool) {
        let mut state = self.lock();
        state.closed = true;
        state.aborted |= abort;
        self.changed.notify_one();
    }

    /// The next job. Waits for one where `idle`; `None`: there is none now, or never again.
    pub(crate) fn next(&self, idle: bool) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.aborted {
                return None;
            }
            while let Some(job) = state.jobs.pop_front() {
                if !job.events.is_closed() {
                    return Some(job);
                }
            }
            if !idle || state.closed {
                return None;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }
}

/// Works until the queue is closed and everything in it done. On an error of the device the queue
/// is closed and everybody told.
pub(super) fn run<D: Operations + Planner>(
    scheduler: &mut Scheduler<'_, D>,
    queue: &Queue,
    metrics: &Metrics,
) -> Result<()> {
    let mut running: HashMap<SequenceId, UnboundedSender<JobEvent>> = HashMap::new();
    loop {
        while scheduler.has_room() {
            let Some(job) = queue.next(scheduler.is_empty()) else {
                break;
            };
            // The handler checked what it sends, so this is rare: no memory for a cache, say.
            match scheduler.join(&job.prompt, &job.settings) {
                Ok(id) => drop(running.insert(id, job.events)),
                Err(error) => fail(&job.events, &error),
            }
        }
        if queue.lock().aborted || scheduler.is_empty() {
            return Ok(());
        }
        running.retain(|&id, events| {
            let wanted = !events.is_closed();
            if !wanted {
                scheduler.leave(id);
            }
            wanted
        });
        metrics
            .running
            .store(scheduler.len() as u64, Ordering::Relaxed);
        let events = match scheduler.step() {
            Ok(events) => events,
            Err(error) => {
                queue.close(true);
                running.values().for_each(|events| fail(events, &error));
                return Err(error);
            }
        };
        for event in events {
            tell(&mut running, event);
        }
        metrics
            .running
            .store(scheduler.len() as u64, Ordering::Relaxed);
    }
}

fn tell(running: &mut HashMap<SequenceId, UnboundedSender<JobEvent>>, event: SequenceEvent) {
    // A receiver that is gone is noticed before the next step.
    match event {
        SequenceEvent::Token(id, token) => {
            if let Some(events) = running.get(&id) {
                let _ = events.send(JobEvent::Token(token));
            }
        }
        SequenceEvent::Finished(id, finish) => {
            if let Some(events) = running.remove(&id) {
                let _ = events.send(JobEvent::Finished(finish));
            }
        }
        SequenceEvent::Failed(id, error) => {
            if let Some(events) = running.remove(&id) {
                fail(&events, &error);
            }
        }
    }
}

fn fail(events: &UnboundedSender<JobEvent>, error: &anyhow::Error) {
    log::event(
        "error",
        "model_failed",
        json!({"reason": format!("{error:#}")}),
    );
    let _ = events.send(JobEvent::Failed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    fn job(token: u32) -> (Job, UnboundedReceiver<JobEvent>) {
        let (events, receiver) = unbounded_channel();
        let job = Job {
            prompt: vec![token],
            settings: GenerateSettings::default(),
            events,
        };
        (job, receiver)
    }

    #[test]
    fn queue_keeps_the_order_and_refuses_what_would_wait_too_long() {
        let queue = Queue::new(2);
        let (first, _first) = job(1);
        let (second, _second) = job(2);
        assert_eq!(
            (queue.submit(first), queue.submit(second)),
            (Ok(()), Ok(()))
        );
        let (third, _third) = job(3);
        assert_eq!(queue.submit(third), Err(Refusal::Full(2)));
        assert_eq!(queue.waiting(), 2);
        for token in [1, 2] {
            assert_eq!(queue.next(false).map(|job| job.prompt), Some(vec![token]));
        }
        assert!(queue.next(false).is_none());
    }

    #[test]
    fn queue_forgets_clients_that_went_away() {
        let queue = Queue::new(2);
        let (gone, receiver) = job(1);
        let (stays, _stays) = job(2);
        queue.submit(gone).unwrap();
        queue.submit(stays).unwrap();
        drop(receiver);
        // Their place is free, and they are never handed out.
        let (next, _next) = job(3);
        assert_eq!(queue.submit(next), Ok(()));
        assert_eq!(queue.next(false).map(|job| job.prompt), Some(vec![2]));
    }

    #[test]
    fn queue_that_closes_finishes_what_waits_unless_it_aborts() {
        let queue = Queue::new(2);
        let (waits, _waits) = job(1);
        queue.submit(waits).unwrap();
        queue.close(false);
        let (late, _late) = job(2);
        assert_eq!(queue.submit(late), Err(Refusal::Closed));
        // Also where the thread would wait for more.
        assert_eq!(queue.next(true).map(|job| job.prompt), Some(vec![1]));
        assert!(queue.next(true).is_none());

        let queue = Queue::new(2);
        let (waits, _waits) = job(1);
        queue.submit(waits).unwrap();
        queue.close(true);
        assert!(queue.next(true).is_none());
    }

    #[test]
    fn queue_wakes_the_thread_that_waits() {
        let queue = Queue::new(1);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.next(true).map(|job| job.prompt));
            let (late, _late) = job(7);
            queue.submit(late).unwrap();
            assert_eq!(waiting.join().unwrap(), Some(vec![7]));
            let waiting = scope.spawn(|| queue.next(true).is_none());
            queue.close(false);
            assert!(waiting.join().unwrap());
        });
    }
}
