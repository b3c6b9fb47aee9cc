//! How many tasks are alive: what a connection leaves behind would show here first.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::RuntimeMetrics;

use super::Encoder;
use super::catalog as c;

/// The runtimes of the process, by name. Several may share one, as the workers' do.
#[derive(Debug, Default)]
pub(super) struct Tasks(Mutex<Vec<(&'static str, RuntimeMetrics)>>);

impl Tasks {
    pub(super) fn add(&self, name: &'static str, runtime: RuntimeMetrics) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((name, runtime));
    }

    pub(super) fn collect(&self, out: &mut Encoder) {
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for (name, runtime) in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            *sums.entry(name).or_default() += runtime.num_alive_tasks() as u64;
        }
        for (name, tasks) in sums {
            out.gauge(&c::TASKS, &[name], tasks);
        }
    }
}
