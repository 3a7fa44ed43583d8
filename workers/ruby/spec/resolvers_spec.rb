# frozen_string_literal: true

# Handlers that are found by resolvers.
RSpec.describe "resolvers" do
  describe "with a worker" do
    before(:all) { @worker = WorkerProgram.new(Shared.server, "#{Shared.folder}/resolvers-worker.log") }
    after(:all) { expect(@worker.terminate).to eq(0), File.read(@worker.log) }

    it "find classes by their names, and what a resolver of the user's finds" do
      steps = server.run("by_name", {}, namespace: "rb_by_name")
      expect(steps["status"]).to eq("complete")
      results = steps.except("status", "task").transform_values { |step| step["results"] }
      expect(results).to eq(
        "outer" => { "found" => "Outer", "as" => "Found::Outer" }, "undo" => { "found" => "Outer.undo" },
        "inner" => { "found" => "Inner" }, "shout" => { "said" => "HELLO" }, "whisper" => { "said" => "AGAIN" }
      )
    end

    it "are listed with what they found" do
      wanted = ["@class_lookup", "@shout", "Found::Outer", "Found::Outer#undo", "Found::Outer::Inner@class_lookup",
                "shout:again", "shout:hello@shout"]
      eventually("all are listed") do
        listed = server.call("GET", "/v1/handlers/rb_by_name")["handlers"].map { |each| each["name"] }
        (wanted - listed).empty?
      end
    end

    it "find what a template calls that comes later, and leave what is not there" do
      client = TaskerCore::Client.new(server.url)
      tasks = { "late" => "Found::Outer", "never" => "Found::Nobody" }.to_h do |name, handler|
        steps = "steps: [{name: only, handler: '#{handler}'}]"
        yaml = "name: #{name}\nnamespace_name: rb_#{name}\nversion: 1.0.0\n#{steps}\n"
        server.call("POST", "/v1/templates", { yaml: yaml })
        [name, client.create_task(name, namespace: "rb_#{name}").task_uuid]
      end
      expect(client.wait_task(tasks["late"], timeout: 60).status).to eq("complete")
      expect(client.explain(tasks["never"]).steps.first.code).to eq("no_live_worker")
      client.cancel_task(tasks["never"])
    end
  end

  let(:registry) { TaskerCore::Registry::HandlerRegistry.new }

  it "find classes of the handlers' folders only, with the methods that they have" do
    File.write("#{scratch}/lookup.rb", <<~RUBY)
      module Lookup
        class Named < TaskerCore::StepHandler::Base
          handler_name "lookup.named"
          def call(_) = 1
        end
        class Abstract < TaskerCore::StepHandler::Base
        end
        Other ||= Class.new
      end
    RUBY
    expect(registry.resolver_names).to eq([])
    registry.discover_folder(scratch)
    expect(registry.resolver_names).to eq(["class_lookup"])
    found = ->(name, method = "call") { registry.find(name, method, "class_lookup") }
    expect(found["Lookup::Named"].handler_name).to eq("lookup.named")
    expect(found["Lookup::Named", "undo"]).to be_nil
    before = registry.find("Lookup::Named", "call", "class_lookup")
    registry.reload!
    expect(found["Lookup::Named"]).not_to equal(before)
    others = ["Lookup::Abstract", "Lookup::Other", "TaskerCore::StepHandler::Base", "Found::Outer", "Kernel", "a b", ""]
    expect(others.map(&found)).to eq([nil] * others.size)
  end

  it "know nothing where they raise or answer nonsense" do
    registry.register_resolver("raises") { |*| raise Exception, "at the root" }
    registry.register_resolver("nonsense") { |*| 7 }
    registry.register_resolver("abstract") { |*| TaskerCore::StepHandler::Base }
    expect(registry.resolver_names).to eq(%w[raises nonsense abstract])
    said = logged { expect(registry.resolver_names.map { |name| registry.find("a", "call", name) }).to eq([nil] * 3) }
    expect(said).to include("the resolver raises was asked for a: Exception: at the root")
    %w[raises class_lookup].each do |taken|
      expect { registry.register_resolver(taken) { |*| nil } }.to raise_error(TaskerCore::ConfigurationError)
    end
  end
end
