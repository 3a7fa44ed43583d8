//! The table of keys in words: one key for `explain`, all of them for the documentation page.

use std::fmt::Write;

use super::keys::{self, KEYS, Key, Preset, Role};

/// What a key means, with its default, range, variables and reason. `None` where there is no such key;
/// [`keys::suggest`] may know what was meant.
pub fn explain(name: &str) -> Option<String> {
    keys::find(name).map(describe)
}

/// The page docs/configuration.md.
pub fn docs() -> String {
    let mut page = INTRODUCTION.to_owned();
    for role in Role::ALL {
        _ = write!(page, "\n## {}\n", role.file_name());
        for key in KEYS.iter().filter(|key| key.role == role) {
            _ = write!(page, "\n### `{}`\n\n{}", key.name, describe(key));
        }
    }
    page
}

fn describe(key: &Key) -> String {
    let mut text = format!("{}\n\n", key.reason);
    let unit = if key.unit.is_empty() { String::new() } else { format!(" {}", key.unit) };
    _ = match key.default {
        Preset::Value(value) => writeln!(text, "- Default: `{value}`{unit}"),
        Preset::Absent(then) => writeln!(text, "- Default: none; {then}"),
    };
    _ = writeln!(text, "- Takes: {}", key.kind);
    _ = match key.variable {
        Some(short) => writeln!(text, "- Variables: `{short}`, `{}`", key.override_variable()),
        None => writeln!(text, "- Variable: `{}`", key.override_variable()),
    };
    text
}

const INTRODUCTION: &str = "\
# Configuration

Nothing needs to be configured to start: every key has a default. This page is generated from the table of keys
by `tasker config docs`; a test keeps the two equal.

A value is looked for in this order, and the last place that names it wins:

1. the built-in default
2. `base/common.toml`, `base/orchestration.toml`, `base/worker.toml` in the folder `TASKER_CONFIG_ROOT`
   (default `config/tasker`, where it exists)
3. the same three names in `environments/<TASKER_ENV>/`; `TASKER_ENV` is `test`, `development` (default) or `production`
4. `TASKER__SECTION__KEY`, typed by the key; lists are separated by commas
5. the variables with names of their own, such as `DATABASE_URL`; an empty one counts as not set

`TASKER_CONFIG_PATH` names one single file, which may hold every key and takes the place of 2 and 3. Tables are
merged key by key; a list takes the place of the list before it. A key stands in the file of its role, below.

Strings in files may contain `${VAR}` and `${VAR:-default}`; a default is taken when the variable is unset or empty
and ends at the first `}`. `$${` is a literal `${`. A number or list can be written as `\"${VAR:-5}\"`.

Unknown keys, files and `TASKER__` variables are errors. All errors are reported at once, each with its file and
line: `tasker config validate`. `tasker config show` prints every value and where it came from.
";
