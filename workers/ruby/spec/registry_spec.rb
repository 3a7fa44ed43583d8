# frozen_string_literal: true

require "open3"

include TaskerCore::StepHandler::Functional

RSpec.describe TaskerCore::Registry::HandlerRegistry do
  let(:registry) { described_class.new }
  let(:base) { TaskerCore::StepHandler::Base }

  # Some handler that nothing calls.
  class Other < TaskerCore::StepHandler::Base
    def call(_context)
      1
    end
  end

  it "takes each name once" do
    charge = step_handler("charge", version: "2.0.0") { 1 }
    registry.register(charge)
    registry.register(charge)
    registry.register(Other)
    registry.register_handler("alias", Other)
    expect(registry.registered_handlers).to eq(%w[Other alias charge])
    expect(registry.resolve("charge").metadata).to include("version" => "2.0.0", "handler_name" => "charge")
    expect(registry.resolve_handler("nobody")).to be_nil
    boastful = Class.new(Other) { handler_methods :call, :refund }
    [["charge", Other], [base], [7], ["x", boastful], [Class.new(Other)], ["x", Class.new(base)]].each do |refused|
      expect { registry.register(*refused) }.to raise_error(TaskerCore::ConfigurationError)
    end
    expect([registry.unregister("alias"), registry.unregister("alias")]).to eq([true, false])
    expect(registry.handler_available?("Other")).to be(true)
  end

  it "finds handlers in folders and below" do
    FileUtils.mkdir_p("#{scratch}/inner")
    File.write("#{scratch}/shared_base.rb", "class SharedBase < TaskerCore::StepHandler::Base; end\n")
    File.write("#{scratch}/inner/found.rb", <<~RUBY)
      require "shared_base"
      module Inner
        class A < SharedBase
          def call(_) = 1
        end
        class B < A
          handler_name "named.b"
        end
      end
      include TaskerCore::StepHandler::Functional
      step_handler("by.block") { 1 }
    RUBY
    expect(registry.discover_folder(scratch)).to eq(3)
    expect(registry.registered_handlers).to eq(["Inner::A", "by.block", "named.b"])
    expect(registry.methods_by_name["named.b"]).to eq(["call"])
    expect { registry.discover_folder("#{scratch}/shared_base.rb") }.to raise_error(TaskerCore::ConfigurationError)
  end

  it "loads folders anew, and leaves all as it was where a file is broken" do
    file = "#{scratch}/reloaded.rb"
    write = lambda do |answer, more = ""|
      File.write(file, "class Reloaded < TaskerCore::StepHandler::Base\n  def call(_) = #{answer}\nend\n#{more}")
    end
    answer = -> { TaskerCore::Testing.run(registry.handler_class("Reloaded")).result }
    write[1, "class Gone < Reloaded; end\n"]
    registry.register("elsewhere", Other)
    registry.discover_folder(scratch)
    write[2]
    registry.reload!
    expect(answer.call).to eq(2)
    expect(registry.registered_handlers).to eq(%w[Reloaded elsewhere])
    [["raise 'broken'\n"], ["def\n"], ["require 'nowhere_to_be_found'\n"]].each do |broken,|
      write[3, broken]
      expect { registry.reload! }.to raise_error(Exception)
      expect([answer.call, Reloaded.new.call(nil), registry.registered_handlers]).to eq([2, 2, %w[Reloaded elsewhere]])
    end
    write[4]
    registry.reload!
    expect(answer.call).to eq(4)
  end

  it "registers what a program has defined" do
    program = <<~RUBY
      require "tasker_core"
      class Mine < TaskerCore::StepHandler::Base
        def call(_) = 1
      end
      class Parent < TaskerCore::StepHandler::Api; end
      GC.start
      print TaskerCore::Registry::HandlerRegistry.instance.bootstrap_handlers!,
            TaskerCore::Registry::HandlerRegistry.instance.registered_handlers
    RUBY
    said, = Open3.capture2e(RbConfig.ruby, "-w", "-Ilib", "-e", program)
    expect(said).to eq('1["Mine"]')
  end
end
