//! The endpoints of the API, for the router, the metrics' labels and the `OpenAPI` document.

/// One endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// HTTP method in capitals.
    pub method: &'static str,
    /// Path; `{name}` stands for a task name.
    pub path: &'static str,
    /// Unique name of the endpoint for generated clients.
    pub operation_id: &'static str,
    /// One sentence.
    pub summary: &'static str,
}

/// Every endpoint there is.
pub const ROUTES: &[Route] = &[
    route(
        "POST",
        "/tasks",
        "createTask",
        "Creates and starts one task.",
    ),
    route(
        "GET",
        "/tasks/{name}",
        "getTask",
        "Shows one task; can wait for its end.",
    ),
    route(
        "DELETE",
        "/tasks/{name}",
        "deleteTask",
        "Ends one task and removes its record.",
    ),
    route(
        "GET",
        "/tasks/{name}/logs",
        "getTaskLogs",
        "Reads or follows the output of one task.",
    ),
    route(
        "POST",
        "/setTasks",
        "setTasks",
        "Makes the given list the set of tasks that exist.",
    ),
    route(
        "GET",
        "/getTasks",
        "getTasks",
        "Lists all tasks; can stream what changes.",
    ),
    route(
        "GET",
        "/health",
        "getHealth",
        "Tells whether the agent can do its job.",
    ),
    route(
        "GET",
        "/livez",
        "getLiveness",
        "Tells whether the agent should be restarted.",
    ),
    route(
        "GET",
        "/readyz",
        "getReadiness",
        "Tells whether the agent takes requests.",
    ),
    route(
        "GET",
        "/metrics",
        "getMetrics",
        "Shows metrics as Prometheus text.",
    ),
    route(
        "GET",
        "/version",
        "getVersion",
        "Shows the version of the agent.",
    ),
    route(
        "GET",
        "/capabilities",
        "getCapabilities",
        "Shows what the agent can do here.",
    ),
    route(
        "GET",
        "/openapi.json",
        "getOpenApi",
        "Shows this description.",
    ),
];

const fn route(
    method: &'static str,
    path: &'static str,
    operation_id: &'static str,
    summary: &'static str,
) -> Route {
    Route {
        method,
        path,
        operation_id,
        summary,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_endpoint_and_no_operation_id_is_there_twice() {
        let endpoints: BTreeSet<_> = ROUTES
            .iter()
            .map(|route| (route.method, route.path))
            .collect();
        let ids: BTreeSet<_> = ROUTES.iter().map(|route| route.operation_id).collect();
        assert_eq!((endpoints.len(), ids.len()), (ROUTES.len(), ROUTES.len()));
    }
}
