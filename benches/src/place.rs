//! Where a child of a bench runs: in which network, on which processor, in which scheduling class.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where and how a child runs; by default like the bench itself. util-linux's commands put it there.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The file of /proc that stands for its network namespace.
    pub network: Option<PathBuf>,
    /// The processor that it is kept on.
    pub processor: Option<usize>,
    /// Whether it runs under SCHED_FIFO, before everything that does not.
    pub is_realtime: bool,
    /// Where its standard error goes.
    pub errors: Option<PathBuf>,
}

impl Place {
    /// A place in this network.
    pub fn in_network(network: &Path) -> Self {
        Self { network: Some(network.to_owned()), ..Self::default() }
    }

    /// The same place on one processor.
    #[must_use]
    pub fn on(&self, processor: usize) -> Self {
        Self { processor: Some(processor), ..self.clone() }
    }

    /// A command that runs `program` there. All of the programs in between become the next one, so that its number is the child's.
    pub fn command(&self, program: &Path) -> Command {
        let mut words: Vec<String> = Vec::new();
        if let Some(network) = &self.network {
            words.extend(["nsenter".to_owned(), format!("--net={}", network.display())]);
        }
        if let Some(processor) = self.processor {
            words.extend(["taskset", "-c", &processor.to_string()].map(str::to_owned));
        }
        if self.is_realtime {
            words.extend(REALTIME.map(str::to_owned));
        }
        let Some((first, rest)) = words.split_first() else { return Command::new(program) };
        let mut command = Command::new(first);
        command.args(rest).arg(program);
        command
    }
}

const REALTIME: [&str; 3] = ["chrt", "-f", "10"];

/// Whether children may run under SCHED_FIFO, or why not.
pub fn may_be_realtime() -> Result<(), String> {
    let [program, arguments @ ..] = REALTIME;
    let mut command = Command::new(program);
    let output = command.args(arguments).arg("true").stdin(Stdio::null()).output();
    match output {
        Err(error) => Err(format!("the command `chrt` (package util-linux) does not run: {error}")),
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(said(&output.stderr)),
    }
}

/// The last line of what a command said.
pub(crate) fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).lines().last().unwrap_or("it said nothing").trim().to_owned()
}
