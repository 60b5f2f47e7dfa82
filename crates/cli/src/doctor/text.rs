//! The report for people: aligned, calm, in colour only where that can be seen.

use std::fmt::Write as _;

use super::report::{
    Asked, ChannelPolicy, ChannelRights, Channels, Columns, Decided, Finding, LookedUp, LookupReport,
    PolicyReport, Report, RoleReport, RowSecurity, Rows, Severity, TableReport,
};
use super::size::bytes;
use crate::settings::Environment;

/// Sentences are broken to this width; SQL never is, so that it can be copied.
const WIDTH: usize = 100;

/// The width of the labels on the left.
const LABEL: usize = 20;

/// Whether to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colours(bool);

impl Colours {
    /// None at all.
    pub const NONE: Colours = Colours(false);

    /// On a terminal, unless `NO_COLOR` is set (<https://no-color.org>) or the terminal can not.
    pub fn wanted(terminal: bool, environment: &Environment) -> Self {
        let set = |name: &str| environment.get(name).map(String::as_str).unwrap_or_default();
        Colours(terminal && set("NO_COLOR").is_empty() && set("TERM") != "dumb")
    }

    /// `text` with the attributes of an ANSI escape sequence (ECMA-48, SGR).
    pub(crate) fn paint(self, attributes: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{attributes}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn of(self, severity: Severity, text: &str) -> String {
        let attributes = match severity {
            Severity::Obstacle | Severity::Danger => "1;31",
            Severity::Warning => "33",
            Severity::Note => "2",
        };
        self.paint(attributes, text)
    }
}

impl Report {
    /// The whole report.
    pub fn text(&self, colours: Colours) -> String {
        let mut out = Page { out: String::new(), colours };
        out.labelled("", "database", &self.database);
        for fact in &self.facts {
            out.labelled("", fact.about, &fact.is);
        }
        out.findings(&self.findings);
        for table in &self.tables {
            out.table(table);
        }
        for table in &self.lookups {
            out.lookup(table);
        }
        if let Some(channels) = &self.channels {
            out.channels(channels);
        }
        out.line("");
        out.line(&self.summary(colours));
        out.out
    }

    fn summary(&self, colours: Colours) -> String {
        let counted = [Severity::Obstacle, Severity::Danger, Severity::Warning, Severity::Note]
            .into_iter()
            .filter_map(|severity| {
                let count = self.all_findings().filter(|finding| finding.severity == severity).count();
                let plural = if count == 1 { "" } else { "s" };
                (count > 0).then(|| colours.of(severity, &format!("{count} {}{plural}", severity.word())))
            })
            .collect::<Vec<_>>();
        let verdict = if self.can_serve {
            colours.paint("32", "walcast can serve this database")
        } else {
            colours.paint("1;31", "walcast can not serve this database")
        };
        match counted.as_slice() {
            [] => format!("{verdict}, and there is nothing to mend."),
            counted => format!("{verdict}: {}.", counted.join(", ")),
        }
    }
}

struct Page {
    out: String,
    colours: Colours,
}

impl Page {
    fn line(&mut self, text: &str) {
        // Writing to a String does not fail.
        let _ = writeln!(self.out, "{}", text.trim_end());
    }

    /// A label, and beside it a text that goes on below itself.
    fn labelled(&mut self, indent: &str, label: &str, text: &str) {
        let label = format!("{indent}{label:<width$}", width = LABEL - indent.len());
        // A label that is too long has the line for itself.
        let mut left = if label.len() > LABEL {
            self.line(&label);
            " ".repeat(LABEL)
        } else {
            label
        };
        for part in wrapped(text, WIDTH - LABEL) {
            self.line(&format!("{left}{part}"));
            left = " ".repeat(LABEL);
        }
    }

    fn table(&mut self, table: &TableReport) {
        self.line("");
        let name = format!("{}.{}", table.schema, table.name);
        let name = self.colours.paint("1", &name);
        self.line(&name);
        let row_security = match table.row_security {
            RowSecurity::Off => self.colours.of(Severity::Danger, "off"),
            RowSecurity::On => "on".to_owned(),
            RowSecurity::Forced => "on, for the owner too".to_owned(),
        };
        self.labelled("  ", "row security", &row_security);
        self.labelled("  ", "replica identity", &format!("{}: {}", table.replica_identity, table.deletes));
        for role in &table.roles {
            self.labelled("  ", &role.role, &readable(role, table.row_security));
        }
        for policy in &table.policies {
            self.labelled("  ", "policy", &heading(policy));
            for sentence in decisions(policy) {
                self.labelled("  ", "", &sentence);
            }
        }
        self.findings(&table.findings);
    }

    fn lookup(&mut self, table: &LookupReport) {
        self.line("");
        let name = self.colours.paint("1", &format!("{}.{}", table.schema, table.name));
        self.line(&format!("{name}, looked up by policies"));
        if table.copied {
            self.labelled(
                "  ",
                "copied",
                &format!("{}, kept current from the log", table.columns.join(", ")),
            );
        } else {
            self.labelled("  ", "not copied", "PostgreSQL is asked");
        }
        let size = match (table.rows, table.bytes) {
            (None, _) => "rows not counted yet (ANALYZE)".to_owned(),
            (Some(rows), None) => format!("about {rows} rows"),
            (Some(rows), Some(size)) => format!("about {rows} rows, {} in memory", bytes(size)),
        };
        self.labelled("  ", "size", &size);
        self.findings(&table.findings);
    }

    fn channels(&mut self, channels: &Channels) {
        self.line("");
        let name = self.colours.paint("1", "realtime.messages");
        self.line(&format!("{name}, private channels"));
        for role in &channels.roles {
            let may = format!("joins {}, sends on {}", which(role.reads), which(role.sends));
            self.labelled("  ", &role.role, &may);
        }
        for policy in &channels.policies {
            self.labelled("  ", "policy", &format!("\"{}\" to {}", policy.name, policy.action));
            for sentence in channel_decisions(policy) {
                self.labelled("  ", "", &sentence);
            }
        }
        self.findings(&channels.findings);
    }

    fn findings(&mut self, findings: &[Finding]) {
        for (index, finding) in findings.iter().enumerate() {
            if index == 0 {
                self.line("");
            }
            let word = finding.severity.word();
            // Padded apart from the colour, which takes no room on the screen.
            let padding = " ".repeat(LABEL - 2 - word.len());
            let mut left = format!("  {}{padding}", self.colours.of(finding.severity, word));
            for part in wrapped(&finding.sentence, WIDTH - LABEL) {
                self.line(&format!("{left}{part}"));
                left = " ".repeat(LABEL);
            }
            if let Some(mend) = &finding.mend {
                let mend = self.colours.paint("36", mend);
                self.line(&format!("{}{mend}", " ".repeat(LABEL)));
            }
        }
    }
}

fn readable(role: &RoleReport, row_security: RowSecurity) -> String {
    let columns = match &role.columns {
        Columns::None => return "no SELECT".to_owned(),
        Columns::Every => "every column".to_owned(),
        Columns::Some(names) => format!("columns {}", names.join(", ")),
    };
    let rows = match role.rows {
        Rows::None => "no row",
        Rows::Error => "an error from every read",
        Rows::ByPolicy => "rows by policy",
        Rows::Every if row_security == RowSecurity::Off => "every row",
        Rows::Every => "every row, since policies do not bind it",
    };
    format!("{columns}, {rows}")
}

fn which(rights: ChannelRights) -> &'static str {
    match rights {
        ChannelRights::Nothing => "none",
        ChannelRights::ByPolicy => "those that the policies say",
        ChannelRights::Everything => "all, since policies do not bind it",
        ChannelRights::Error => "none, since every check is an error",
    }
}

fn channel_decisions(policy: &ChannelPolicy) -> Vec<String> {
    if policy.asked.is_empty() {
        return vec!["decided in process".to_owned()];
    }
    let mut sentences = vec!["decided by PostgreSQL".to_owned()];
    let because = |asked: &Asked| format!("because of {}: {}", asked.because, one_line(&asked.expression));
    sentences.extend(policy.asked.iter().map(because));
    sentences
}

fn one_line(sql: &str) -> String {
    sql.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn heading(policy: &PolicyReport) -> String {
    let roles = if policy.roles.is_empty() { "everybody".to_owned() } else { policy.roles.join(", ") };
    let kind = if policy.permissive { "" } else { ", restrictive" };
    format!("\"{}\" for {roles}{kind}", policy.name)
}

/// How the policy is decided, one sentence in a line.
fn decisions(policy: &PolicyReport) -> Vec<String> {
    let mut sentences = vec![
        match policy.decided {
            Decided::Constants => "decided by the claims alone, once at the join",
            Decided::Process | Decided::Members if policy.looks_up.is_empty() => "decided in process",
            Decided::Process | Decided::Members => "decided in process, looks up",
            Decided::Oracle => "decided by PostgreSQL, unless the parts known to walcast hide the row",
        }
        .to_owned(),
    ];
    if policy.decided != Decided::Oracle {
        let tables: Vec<String> = policy.looks_up.iter().map(with_columns).collect();
        if let Some(first) = sentences.first_mut().filter(|_| !tables.is_empty()) {
            let _ = write!(first, " {}", tables.join(", "));
        }
    }
    let joined = policy.asked_at_join.iter();
    sentences.extend(joined.map(|sql| format!("asked of PostgreSQL once at the join: {}", one_line(sql))));
    let asked = policy.asked_per_change.iter();
    sentences
        .extend(asked.map(|asked| format!("because of {}: {}", asked.because, one_line(&asked.expression))));
    sentences
}

fn with_columns(looked_up: &LookedUp) -> String {
    format!("{} ({})", looked_up.table, looked_up.columns.join(", "))
}

/// `text` in lines of at most `width` characters, broken between words.
pub(crate) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let Some(line) = lines.last_mut() else { continue };
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
            continue;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(findings: Vec<Finding>) -> Report {
        Report {
            can_serve: findings.iter().all(|finding| finding.severity != Severity::Obstacle),
            database: "ana@db:5432/app".to_owned(),
            facts: Vec::new(),
            findings,
            tables: Vec::new(),
            lookups: Vec::new(),
            channels: None,
        }
    }

    #[test]
    fn sql_stands_below_its_sentence_on_one_line_however_long() {
        let sql = format!("ALTER TABLE {} ENABLE ROW LEVEL SECURITY;", "x".repeat(200));
        let finding = Finding::new(Severity::Danger, "open ".repeat(30).trim()).mended_by(&sql);
        let text = report(vec![finding]).text(Colours::NONE);
        assert!(text.contains(&format!("\n{}{sql}\n", " ".repeat(LABEL))), "{text}");
        let sentences = text.lines().filter(|line| !line.contains("ALTER"));
        assert!(sentences.clone().all(|line| line.len() <= WIDTH), "{text}");
        assert!(text.contains("  danger            open open"), "{text}");
        assert!(text.ends_with("walcast can serve this database: 1 danger.\n"), "{text}");
    }

    #[test]
    fn an_obstacle_is_red_on_a_terminal_and_only_there() {
        let environment = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
        let report = report(vec![Finding::new(Severity::Obstacle, "no")]);
        assert!(report.text(Colours::wanted(true, &Environment::default())).contains("\x1b[1;31mobstacle"));
        for colours in [
            Colours::wanted(false, &Environment::default()),
            Colours::wanted(true, &environment("NO_COLOR", "1")),
            Colours::wanted(true, &environment("TERM", "dumb")),
        ] {
            assert!(!report.text(colours).contains('\x1b'));
        }
        assert!(report.text(Colours::wanted(true, &environment("NO_COLOR", ""))).contains('\x1b'));
    }

    #[test]
    fn nothing_to_mend_is_said_as_well() {
        let text = report(Vec::new()).text(Colours::NONE);
        assert_eq!(
            text,
            "database            ana@db:5432/app\n\nwalcast can serve this database, and there is nothing to mend.\n"
        );
    }
}
