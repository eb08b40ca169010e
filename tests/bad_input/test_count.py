"""How many wrong inputs are tried."""

from tests.bad_input import test_data, test_judges, test_models, test_plans, test_run_folders, test_tokenizers

TABLES = {
    "plans": test_plans.CASES,
    "data": [*test_data.CASES, *test_data.JUDGED],
    "models": test_models.CASES,
    "judges": test_judges.CASES,
    "tokenizers": test_tokenizers.CASES,
    "run folders": test_run_folders.CASES,
}


def test_the_table_has_at_least_80_cases_each_with_a_value_and_a_remedy_to_be_named() -> None:
    counts = {family: len(table) for family, table in TABLES.items()}
    print(f"bad input: {sum(counts.values())} cases: {counts}")
    cases = [case for table in TABLES.values() for case in table]
    assert len(cases) >= 80
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), "a name tells one case from all others"
    short = [case.name for case in cases if len(case.words) < 2]
    assert not short, f"the words of these name no value or no remedy: {short}"
