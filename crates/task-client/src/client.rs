//! The client itself: one method for each call of the API.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::CONTENT_TYPE;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::endpoint::{Endpoint, Target};
use crate::error::{Call, CallError};
use crate::exchange::{Answer, Ask, Repeat, Transport};
use crate::logs::{LogQuery, Logs};
use crate::task::{self, ResourceVersion, Task, TaskList};
use crate::watch::{self, Watch, Watching};

/// The longest that an agent waits in one call.
const WAIT_MAX: Duration = Duration::from_mins(5);

/// Deadlines and bounds.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Until a connection is there; part of `request`.
    pub connect: Duration,
    /// Until an answer is complete, or a stream has begun.
    pub request: Duration,
    /// How long a watch may bring nothing. The agent sends a sign of life every 30 seconds.
    pub watch_silence: Duration,
    /// How long a connection that nobody uses is kept. `OpenSandbox`'s agent closes it after 30
    /// seconds; to be first avoids requests on connections that are just being closed.
    pub keep: Duration,
    /// Connections to one agent that are kept while nobody uses them.
    pub kept_per_agent_max: usize,
    /// Bytes of an answer.
    pub answer_bytes_max: usize,
    /// Bytes of one event of a watch, which holds one task.
    pub event_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            request: Duration::from_secs(10),
            watch_silence: Duration::from_secs(90),
            keep: Duration::from_secs(20),
            kept_per_agent_max: 2,
            answer_bytes_max: 64 << 20,
            event_bytes_max: 16 << 20,
        }
    }
}

/// Program and version of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Build {
    /// The version.
    pub version: String,
    /// The commit that it was built from, if the build knew.
    pub git_commit: Option<String>,
    /// The compiler, if the build knew.
    pub rustc: Option<String>,
}

/// Calls agents. Cheap to clone; one for all agents and all tasks of a program.
///
/// Connections are kept and used again. A call whose connection turns out to have been closed by
/// the agent is repeated once on a new connection if that is harmless: all but
/// [`create_task`](Self::create_task) and a [`delete_task`](Self::delete_task) without a uid.
#[derive(Clone, Debug)]
pub struct Client {
    transport: Arc<Transport>,
    options: Options,
}

impl Client {
    /// A client without connections. They are driven by the tokio runtime of the first call.
    pub fn new(options: Options) -> Self {
        Self {
            transport: Arc::new(Transport::new(&options)),
            options,
        }
    }

    /// Makes the tasks in `body`, a JSON array, the set of tasks that exist; gives the list
    /// afterwards, tasks being deleted included.
    pub async fn set_tasks(&self, at: &Endpoint, body: Bytes) -> Result<TaskList, CallError> {
        let ask = self.post(Call::SetTasks, at, "/setTasks", body, Repeat::Harmless);
        let answer = self.transport.fetch(&ask).await?;
        listed(&ask, &answer)
    }

    /// All tasks.
    pub async fn get_tasks(&self, at: &Endpoint) -> Result<TaskList, CallError> {
        let ask = self.get(Call::GetTasks, at, "/getTasks".to_owned());
        let answer = self.transport.fetch(&ask).await?;
        listed(&ask, &answer)
    }

    /// Everything that changes after `since`; without it, all tasks first.
    ///
    /// # Errors
    /// [`CallError::is_gone`] when the version is too old: list again and watch from there.
    pub async fn watch_tasks(
        &self,
        at: &Endpoint,
        since: Option<ResourceVersion>,
    ) -> Result<Watching, CallError> {
        let mut path = "/getTasks?watch=true".to_owned();
        if let Some(since) = since {
            path.push_str("&resourceVersion=");
            path.push_str(&since.to_string());
        }
        let ask = self.get(Call::WatchTasks, at, path);
        let response = self.transport.open(&ask).await?;
        let kind = response.headers().get(CONTENT_TYPE);
        if kind.is_some_and(|kind| kind.as_bytes().starts_with(watch::CONTENT_TYPE)) {
            let watch = Watch::new(ask.asked(), response.into_body(), since, &self.options);
            return Ok(Watching::Live(watch));
        }
        // An agent without a watch passes over the query and lists its tasks.
        let answer = self.transport.finish(&ask, response).await?;
        listed(&ask, &answer).map(Watching::Unsupported)
    }

    /// Creates the task in `body`, a JSON object. Never repeated: when its answer was lost, the
    /// next attempt is refused with 409 if the first was accepted.
    pub async fn create_task(&self, at: &Endpoint, body: Bytes) -> Result<Task, CallError> {
        let ask = self.post(Call::CreateTask, at, "/tasks", body, Repeat::Never);
        self.fetch_task(&ask).await
    }

    /// One task.
    pub async fn get_task(&self, at: &Endpoint, target: &Target) -> Result<Task, CallError> {
        let ask = self.get(Call::GetTask, at, target.path("", &[]));
        self.fetch_task(&ask).await
    }

    /// One task once it is terminated, or as it is after `wait`; at most five minutes.
    ///
    /// `OpenSandbox`'s agent does not wait, so look at the state and not at the time that passed.
    pub async fn wait_task(
        &self,
        at: &Endpoint,
        target: &Target,
        wait: Duration,
    ) -> Result<Task, CallError> {
        let wait = wait.min(WAIT_MAX);
        let parameter = ("wait", format!("{}ms", wait.as_millis()));
        let mut ask = self.get(Call::WaitTask, at, target.path("", &[parameter]));
        ask.patience = ask.patience.saturating_add(wait);
        self.fetch_task(&ask).await
    }

    /// Deletes a task; to have none is success too. It is gone once a
    /// [`get_task`](Self::get_task) answers that it [is not found](CallError::is_not_found).
    pub async fn delete_task(&self, at: &Endpoint, target: &Target) -> Result<(), CallError> {
        let mut ask = self.get(Call::DeleteTask, at, target.path("", &[]));
        ask.method = Method::DELETE;
        if target.uid.is_none() {
            // By then the name may have gone to another task.
            ask.repeat = Repeat::Never;
        }
        self.transport.fetch(&ask).await.map(drop)
    }

    /// What a task has written so far.
    pub async fn logs(
        &self,
        at: &Endpoint,
        target: &Target,
        query: &LogQuery,
    ) -> Result<Logs, CallError> {
        let ask = self.get(Call::GetLogs, at, target.path("/logs", &query.parameters()));
        let response = self.transport.open(&ask).await?;
        Ok(Logs::new(ask.asked(), response, Some(self.options.request)))
    }

    /// What a task has written, and what it is going to write until it ends. A task may be silent
    /// for as long as it likes, so this has no deadline.
    pub async fn follow_logs(
        &self,
        at: &Endpoint,
        target: &Target,
        query: &LogQuery,
    ) -> Result<Logs, CallError> {
        let mut parameters = query.parameters();
        parameters.push(("follow", "true".to_owned()));
        let ask = self.get(Call::GetLogs, at, target.path("/logs", &parameters));
        let response = self.transport.open(&ask).await?;
        Ok(Logs::new(ask.asked(), response, None))
    }

    /// Succeeds when the agent can do its job; else it is refused with the reason.
    pub async fn health(&self, at: &Endpoint) -> Result<(), CallError> {
        let ask = self.get(Call::GetHealth, at, "/health".to_owned());
        self.transport.fetch(&ask).await.map(drop)
    }

    /// What the agent can do where it runs. `OpenSandbox`'s agent answers 404.
    pub async fn capabilities(&self, at: &Endpoint) -> Result<Value, CallError> {
        self.fetch_json(Call::GetCapabilities, at, "/capabilities")
            .await
    }

    /// Which agent it is. `OpenSandbox`'s agent answers 404.
    pub async fn version(&self, at: &Endpoint) -> Result<Build, CallError> {
        self.fetch_json(Call::GetVersion, at, "/version").await
    }

    async fn fetch_task(&self, ask: &Ask<'_>) -> Result<Task, CallError> {
        let answer = self.transport.fetch(ask).await?;
        let task = Task::parse(&answer.body);
        task.map_err(|invalid| ask.asked().bad_answer(invalid.to_string()))
    }

    async fn fetch_json<T: DeserializeOwned>(
        &self,
        call: Call,
        at: &Endpoint,
        path: &str,
    ) -> Result<T, CallError> {
        let ask = self.get(call, at, path.to_owned());
        let answer = self.transport.fetch(&ask).await?;
        let value = serde_json::from_slice(&answer.body);
        value.map_err(|error| ask.asked().bad_answer(error.to_string()))
    }

    fn get<'a>(&self, call: Call, at: &'a Endpoint, path: String) -> Ask<'a> {
        Ask {
            call,
            at,
            method: Method::GET,
            path,
            body: Bytes::new(),
            repeat: Repeat::Harmless,
            patience: self.options.request,
        }
    }

    fn post<'a>(
        &self,
        call: Call,
        at: &'a Endpoint,
        path: &str,
        body: Bytes,
        repeat: Repeat,
    ) -> Ask<'a> {
        Ask {
            method: Method::POST,
            body,
            repeat,
            ..self.get(call, at, path.to_owned())
        }
    }
}

fn listed(ask: &Ask<'_>, answer: &Answer) -> Result<TaskList, CallError> {
    let version = match answer.headers.get(task::VERSION_HEADER) {
        None => None,
        Some(value) => {
            let version = value.to_str().ok().and_then(|text| text.parse().ok());
            let bad = || {
                ask.asked()
                    .bad_answer("its X-Resource-Version is no number")
            };
            Some(version.ok_or_else(bad)?)
        }
    };
    let list = TaskList::parse(&answer.body, version);
    list.map_err(|invalid| ask.asked().bad_answer(invalid.to_string()))
}
