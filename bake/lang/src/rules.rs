//! The functions of settings: checks, computed values and validators, run on values that the layers gave.

use std::sync::Arc;

use olbake_core::diagnostic::Diagnostic;
use olbake_core::settings::Schema;
use olbake_core::span::Span;
use serde_json::Value as Json;
use starlark::eval::Evaluator;
use starlark::values::Value;
use starlark::values::dict::DictRef;
use starlark::values::list::ListRef;
use starlark::values::tuple::TupleRef;

use crate::fault;
use crate::values::{SettingsData, SettingsView, from_setting, to_json};

/// The functions of settings, in the interpreter.
pub(crate) struct RuleFunctions<'v> {
    checks: DictRef<'v>,
    computed: DictRef<'v>,
    validate: &'v [Value<'v>],
}

impl<'v> RuleFunctions<'v> {
    /// What `settings(…)` kept.
    pub(crate) fn of(kept: Value<'v>) -> Option<Self> {
        let [checks, computed, validate] = ListRef::from_value(kept)?.content() else { return None };
        Some(Self {
            checks: DictRef::from_value(*checks)?,
            computed: DictRef::from_value(*computed)?,
            validate: ListRef::from_value(*validate)?.content(),
        })
    }
}

/// Settings whose functions are run.
pub(crate) struct Rules<'a> {
    /// Their declaration.
    pub(crate) schema: &'a Arc<Schema>,
    /// Where they are declared.
    pub(crate) declared: Option<&'a Span>,
    /// Where they are used.
    pub(crate) used: Option<&'a Span>,
}

/// The names and values of computed settings.
pub(crate) type Computed = Vec<(String, Json)>;

impl Rules<'_> {
    /// Checks values in the order of the declaration, adds the computed ones and runs the validators.
    pub(crate) fn apply<'v>(
        &self,
        eval: &mut Evaluator<'v, '_, '_>,
        functions: &RuleFunctions<'v>,
        values: Vec<Json>,
    ) -> Result<(Arc<SettingsData>, Computed), Vec<Diagnostic>> {
        self.checks(eval, functions, &values)?;
        let (settings, computed) = self.computed(eval, functions, values)?;
        let s = eval.heap().alloc(SettingsView(Arc::clone(&settings)));
        self.validate(eval, functions, s)?;
        Ok((settings, computed))
    }

    /// Functions given as `check =`: they answer with `False`, or with text that says what is wrong.
    fn checks<'v>(
        &self,
        eval: &mut Evaluator<'v, '_, '_>,
        functions: &RuleFunctions<'v>,
        values: &[Json],
    ) -> Result<(), Vec<Diagnostic>> {
        let schema = self.schema;
        let mut problems = Vec::new();
        for (name, function) in functions.checks.iter() {
            let name = name.unpack_str().unwrap_or_default();
            let Some((index, _, field)) = schema.fields.get_full(name) else { continue };
            let value = from_setting(eval.heap(), &values[index], &field.ty);
            if value.is_none() {
                continue;
            }
            let message = match eval.eval_function(function, &[value], &[]) {
                Err(error) => {
                    problems.push(fault::diagnose(error));
                    continue;
                }
                Ok(answer) => match (answer.unpack_str(), answer.unpack_bool()) {
                    (Some(message), _) if !message.is_empty() => message.to_owned(),
                    (_, Some(false)) => format!("its check refuses `{}`", values[index]),
                    _ => continue,
                },
            };
            let text = format!("`{}.{name}`: {message}", schema.name);
            problems.push(self.declared_at(Diagnostic::error("setting-value", text), field.span.as_ref()));
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn declared_at(&self, problem: Diagnostic, declared: Option<&Span>) -> Diagnostic {
        let problem = problem.at(self.used.or(declared).cloned());
        match declared.filter(|_| self.used.is_some()) {
            Some(declared) => problem.related(declared.clone(), "declared here"),
            None => problem,
        }
    }

    fn computed<'v>(
        &self,
        eval: &mut Evaluator<'v, '_, '_>,
        functions: &RuleFunctions<'v>,
        mut values: Vec<Json>,
    ) -> Result<(Arc<SettingsData>, Computed), Vec<Diagnostic>> {
        let schema = self.schema;
        let mut computed = Vec::new();
        for (name, function) in functions.computed.iter() {
            let name = name.unpack_str().unwrap_or_default();
            let Some((index, _, field)) = schema.fields.get_full(name) else { continue };
            let settings = Arc::new(SettingsData::new(Arc::clone(schema), values.clone()));
            let s = eval.heap().alloc(SettingsView(settings));
            let answer =
                eval.eval_function(function, &[s], &[]).map_err(|error| vec![fault::diagnose(error)])?;
            let data = to_json(answer).map_err(|found| format!("expected data, found {found}"));
            let data = data.and_then(|data| {
                field
                    .ty
                    .coerce(&data)
                    .map_err(|problems| format!("{}{}", problems[0].path, problems[0].message))
            });
            let data = data.map_err(|message| {
                let text = format!("`{}.{name}`: {message}", schema.name);
                vec![Diagnostic::error("setting-value", text).at(field.span.clone())]
            })?;
            values[index] = data.clone();
            computed.push((name.to_owned(), data));
        }
        Ok((Arc::new(SettingsData::new(Arc::clone(schema), values)), computed))
    }

    fn validate<'v>(
        &self,
        eval: &mut Evaluator<'v, '_, '_>,
        functions: &RuleFunctions<'v>,
        s: Value<'v>,
    ) -> Result<(), Vec<Diagnostic>> {
        let mut problems = Vec::new();
        for validator in functions.validate {
            let Some([message, function]) = TupleRef::from_value(*validator).map(|pair| pair.content())
            else {
                continue;
            };
            match eval.eval_function(*function, &[s], &[]) {
                Ok(answer) if answer.to_bool() => {}
                Ok(_) => {
                    let text =
                        format!("`{}`: {}", self.schema.name, message.unpack_str().unwrap_or_default());
                    let problem = Diagnostic::error("settings-rule", text);
                    problems.push(self.declared_at(problem, self.declared));
                }
                Err(error) => problems.push(fault::diagnose(error)),
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}
