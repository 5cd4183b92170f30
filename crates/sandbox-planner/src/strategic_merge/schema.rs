//! Which lists are merged item by item, and by what: the patch metadata of the Kubernetes API.
//!
//! The facts are the tags `patchStrategy` and `patchMergeKey` of the Go types (v1.33 and v1.34 agree), which the
//! published schemas call `x-kubernetes-patch-strategy` and `x-kubernetes-patch-merge-key`. Only the way to lists
//! that are merged is written down. Any other object is merged field by field and any other list replaced as a
//! whole: `command`, `args`, `envFrom`, `tolerations`, `readinessGates`, the sources of projected volumes.
//!
//! `retainKeys`, the second strategy of volumes and resource claims, tells tools that *compute* a patch to add the
//! directive; merging obeys the directive anywhere, so it is not noted here.

/// What is known of an object's fields.
#[derive(Debug)]
pub struct Schema {
    fields: &'static [(&'static str, Field)],
}

/// A field that is, or leads to, a merged list.
#[derive(Debug)]
pub(super) enum Field {
    /// An object with such fields.
    Object(&'static Schema),
    /// A list of objects, merged by the field `key` of its items.
    Keyed {
        key: &'static str,
        items: &'static Schema,
    },
    /// A list of plain values, merged as a set.
    Set,
}

impl Schema {
    /// What is known of one field.
    pub(super) fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, field)| field)
    }

    /// The schema of the object in a field, or of the objects in its list.
    pub(super) fn beneath(field: Option<&Field>) -> &'static Self {
        match field {
            Some(Field::Object(schema) | Field::Keyed { items: schema, .. }) => schema,
            Some(Field::Set) | None => &PLAIN,
        }
    }
}

/// A Pod, whole: metadata, spec and status.
pub static POD: Schema = Schema {
    fields: &[
        ("metadata", Field::Object(&METADATA)),
        ("spec", Field::Object(&POD_SPEC)),
        ("status", Field::Object(&POD_STATUS)),
    ],
};

/// The template of a task, as `BatchSandbox` has it: the variables of the process are merged by name, the rest is
/// replaced.
pub static TASK_TEMPLATE: Schema = Schema {
    fields: &[
        ("metadata", Field::Object(&METADATA)),
        ("spec", Field::Object(&TASK_SPEC)),
    ],
};

static PLAIN: Schema = Schema { fields: &[] };

static TASK_SPEC: Schema = Schema {
    fields: &[("process", Field::Object(&PROCESS))],
};

static PROCESS: Schema = Schema {
    fields: &[("env", keyed("name"))],
};

static METADATA: Schema = Schema {
    fields: &[
        ("finalizers", Field::Set),
        ("ownerReferences", keyed("uid")),
    ],
};

static POD_SPEC: Schema = Schema {
    fields: &[
        (
            "containers",
            Field::Keyed {
                key: "name",
                items: &CONTAINER,
            },
        ),
        (
            "ephemeralContainers",
            Field::Keyed {
                key: "name",
                items: &CONTAINER,
            },
        ),
        ("hostAliases", keyed("ip")),
        ("imagePullSecrets", keyed("name")),
        (
            "initContainers",
            Field::Keyed {
                key: "name",
                items: &CONTAINER,
            },
        ),
        ("resourceClaims", keyed("name")),
        ("schedulingGates", keyed("name")),
        ("topologySpreadConstraints", keyed("topologyKey")),
        (
            "volumes",
            Field::Keyed {
                key: "name",
                items: &VOLUME,
            },
        ),
    ],
};

static CONTAINER: Schema = Schema {
    fields: &[
        ("env", keyed("name")),
        ("ports", keyed("containerPort")),
        ("volumeDevices", keyed("devicePath")),
        ("volumeMounts", keyed("mountPath")),
    ],
};

static VOLUME: Schema = Schema {
    fields: &[("ephemeral", Field::Object(&EPHEMERAL_VOLUME))],
};

static EPHEMERAL_VOLUME: Schema = Schema {
    fields: &[("volumeClaimTemplate", Field::Object(&CLAIM_TEMPLATE))],
};

static CLAIM_TEMPLATE: Schema = Schema {
    fields: &[("metadata", Field::Object(&METADATA))],
};

static POD_STATUS: Schema = Schema {
    fields: &[
        ("conditions", keyed("type")),
        ("hostIPs", keyed("ip")),
        ("podIPs", keyed("ip")),
        ("resourceClaimStatuses", keyed("name")),
    ],
};

const fn keyed(key: &'static str) -> Field {
    Field::Keyed { key, items: &PLAIN }
}
